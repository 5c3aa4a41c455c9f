//! Who may open a flow: what comes before its origin is chosen.
//!
//! 1. The application, when its port lies in a range of one.
//! 2. Access lists, for every packet of no known flow: one who is denied learns nothing by an answer. Where there are lists, a SYN comes here before
//!    it is looked for among flows: a handshake is no flow yet that goes on when its client is denied.
//! 3. TCP segments that open nothing end here, except where they may belong to a flow that needs no memory.
//! 4. Rates, each only charged when no other refuses. What an origin gives up because it serves no longer is opened anew,
//!    and counts.
//! 5. The pools of the client's country, where it has some of its own.
//! 6. The origin that the client is bound to, which leaves nothing to choose; or that of a flow which may not be over.

use super::access;
use super::family::{Family, V4, V6};
use super::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_LEN};
use super::rate;
use super::scratch::{Errand, Scratch};
use super::select;
use super::span;
use super::tables::Tables;
use super::verdict::{DropReason, Pass, Reply};
use super::{Stage, Step, drop, pass};
use crate::abi::{
    Application, ApplicationFlags, ApplicationKey, Country, Ip, Rate, RouteKey, Settings, SettingsFlags,
    SourceKey,
};
use crate::packet::Packet;

/// Decides whether the scratch's packet, which belongs to no known flow, may open one.
#[inline(always)]
pub fn admit<P: Packet, T: Tables>(packet: &mut P, tables: &T, scratch: &mut Scratch) -> Step {
    match scratch.opening.link.ether_type {
        ETHERTYPE_IPV4 => judge::<V4, P, T>(packet, tables, scratch),
        ETHERTYPE_IPV6 => judge::<V6, P, T>(packet, tables, scratch),
        _ => drop(DropReason::Internal),
    }
}

#[inline(always)]
fn judge<F: Family, P: Packet, T: Tables>(packet: &P, tables: &T, scratch: &mut Scratch) -> Step {
    let Some(settings) = tables.settings() else {
        return drop(DropReason::Internal);
    };
    let subject = &F::draft(scratch).subject;
    let (arriving, opens, ttl) = (subject.arriving, subject.opens(), subject.network.ttl);
    // Its header could not be read.
    let malformed = subject.segment.header_len == 0;
    let source: Ip = arriving.source.into();
    if scratch.opening.served == 0 {
        let key = ApplicationKey {
            address: arriving.destination.into(),
            port: arriving.destination_port,
            protocol: arriving.protocol,
            parity: scratch.opening.parity,
        };
        // Nobody has looked for it yet where the flow was established.
        let exact = if scratch.errand == Errand::Ask {
            tables.application(&key)
        } else {
            None
        };
        let Some(application) = exact.or_else(|| span::find(packet, tables, &key)) else {
            return pass(Pass::NotOurs);
        };
        scratch.opening.application = application;
        scratch.opening.served = 1;
        if malformed {
            return drop(DropReason::Malformed);
        }
    }
    let repeated = scratch.retries != 0;
    if settings.flags.has(SettingsFlags::TRACE) {
        scratch.note.application = scratch.opening.application.id;
    }
    if let Err(reason) = access::check(tables, settings, &mut scratch.opening, source) {
        return drop(reason);
    }
    if scratch.errand == Errand::Screen {
        scratch.errand = Errand::Follow;
        return Step::Go(Stage::Young);
    }
    let opening = &scratch.opening;
    let application = &opening.application;
    if !opens {
        if settings.flags.has(SettingsFlags::MIGRATING) {
            return drop(DropReason::Migrating);
        }
        if !application.flags.has(ApplicationFlags::DIRECT) {
            scratch.reply = Reply::ResetUnknownFlow;
            return Step::Go(Stage::Reply);
        }
    }
    // Where packets may leave as they came, that is seen when the origin is known.
    if ttl <= 1 && !application.flags.has(ApplicationFlags::DIRECT) {
        scratch.reply = Reply::TimeExceeded;
        return Step::Go(Stage::Reply);
    }
    // A SYN that is repeated because an origin did not answer has been charged.
    if opens && !repeated {
        let clock = Clock {
            second: settings.second,
            now: opening.now,
        };
        if let Err(reason) = charge(tables, application, source, clock) {
            return drop(reason);
        }
    }
    if scratch.errand == Errand::Ask {
        return Step::Go(Stage::Retire);
    }
    if scratch.opening.application.flags.has(ApplicationFlags::ROUTES) {
        reroute::<F, T>(tables, source, scratch);
    }
    select::begin::<F>(settings, scratch);
    if scratch.opening.application.affinity_ttl != 0 {
        select::recall(tables, scratch);
    }
    Step::Go(Stage::Select)
}

/// Whether a SYN for an application may try to open a flow before it is known whether there is one. It must not be charged or
/// bind its client for the attempt, nor find a flow whose end has to be told.
#[inline(always)]
pub(super) fn at_once(settings: &Settings, application: &Application) -> bool {
    (application.rate == Rate::NONE)
        & (application.source_rate == Rate::NONE)
        & (application.affinity_ttl == 0)
        & !application.flags.has(ApplicationFlags::DIRECT)
        & !settings.flags.has(SettingsFlags::MIGRATING)
}

/// Replaces the application's pools by those of the client's country, where it has some of its own.
#[inline(always)]
fn reroute<F: Family, T: Tables>(tables: &T, source: Ip, scratch: &mut Scratch) {
    let opening = &mut scratch.opening;
    let key = RouteKey {
        set: opening.application.routes,
        country: tables.country(source).unwrap_or(Country::UNKNOWN),
        parity: opening.parity,
        v6: (F::HEADER_LEN == IPV6_LEN) as u8,
        reserved: [0; 2],
    };
    if let Some(route) = tables.route(&key) {
        opening.application.pools = route.pools;
        opening.application.fallback = route.fallback;
    }
}

/// What rates need of the time.
#[derive(Clone, Copy)]
struct Clock {
    /// Jiffies in a second.
    second: u32,
    now: u32,
}

/// Counts a new flow against the rate of its source, then against that of the application; neither when one refuses.
#[inline(always)]
fn charge<T: Tables>(
    tables: &T,
    application: &Application,
    source: Ip,
    clock: Clock,
) -> Result<(), DropReason> {
    if application.source_rate == Rate::NONE {
        return charge_application(tables, application, clock);
    }
    let key = SourceKey {
        application: application.id,
        address: network_of(source),
    };
    let Clock { second, now } = clock;
    let charged = tables.source_rate(&key, rate::instant(now), |due| {
        let Some(next) = rate::next(*due, application.source_rate, second, now) else {
            return Err(DropReason::RateLimitedSource);
        };
        charge_application(tables, application, clock)?;
        *due = next;
        Ok(())
    });
    // Without a word to remember it by, a source has no rate.
    charged.unwrap_or_else(|| charge_application(tables, application, clock))
}

#[inline(always)]
fn charge_application<T: Tables>(
    tables: &T,
    application: &Application,
    Clock { second, now }: Clock,
) -> Result<(), DropReason> {
    if application.rate == Rate::NONE {
        return Ok(());
    }
    let within = tables.rate(application.id, |due| {
        rate::admit(due, application.rate, second, now)
    });
    if within == Some(false) {
        return Err(DropReason::RateLimited);
    }
    Ok(())
}

/// Who counts as one source: an IPv4 address, and of IPv6 a /64, because that is the least that anybody is given
/// (RFC 6177), and whoever has one can send from any address of it.
#[inline(always)]
fn network_of(source: Ip) -> Ip {
    match source.v4() {
        Some(_) => source,
        None => {
            let [a, b, _, _] = source.0;
            Ip([a, b, 0, 0])
        }
    }
}
