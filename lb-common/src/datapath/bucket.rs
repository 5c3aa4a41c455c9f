//! TCP flows that need no entry: see [`crate::abi::Bucket`].
//!
//! 1. A segment of no entry that opens nothing goes to the bucket's owner.
//! 2. A SYN goes to the origin that the pools give. That one becomes the owner of a bucket that has none, or whose owner's
//!    flows are over. Where another owns the bucket, the flow gets an entry.
//! 3. Flow tables are searched only where an entry may be.
//!
//! So a flow stays where it began, whatever the configuration becomes: with an entry by the entry, without one because the
//! owner of its bucket does not change as long as its packets come.

use super::access;
use super::family::{Family, Tuple};
use super::flow;
use super::known::Context;
use super::parse::IPV6_LEN;
use super::scratch::Opening;
use super::select::Role;
use super::tables::Tables;
use super::transport::Segment;
use crate::abi::{
    Application, ApplicationFlags, ApplicationKey, Bucket, BucketRun, FlowCore, FlowSide, HashKey, HopId,
    Origin, OriginId, OriginState, Parity, Protocol, Shortcut,
};

/// What becomes of a flow that an origin was chosen for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// The origin owns the bucket: nothing is to be remembered.
    Owned,
    /// The flow needs an entry.
    Track,
}

/// The origin of a bucket's flows without entries.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub id: OriginId,
    pub role: Role,
    /// Their connections are to be reset.
    pub resets: bool,
}

#[inline(always)]
fn number<F: Family>(key: HashKey, run: BucketRun, tuple: &Tuple<F::Address>) -> u32 {
    run.number(F::bucket_hash(key, tuple.source, tuple.source_port))
}

#[inline(always)]
fn is_v6<F: Family>() -> bool {
    F::HEADER_LEN == IPV6_LEN
}

/// The row of the bucket that a packet from a client belongs to; `None` when its application has none.
#[inline(always)]
pub(super) fn row<F: Family>(
    key: HashKey,
    application: &Application,
    tuple: &Tuple<F::Address>,
) -> Option<u32> {
    let run = application.buckets;
    if run == BucketRun::NONE || tuple.protocol != Protocol::TCP {
        return None;
    }
    Some(run.row(number::<F>(key, run, tuple), is_v6::<F>()))
}

/// The hash by which the pools are asked for a new flow's origin: the same for the whole bucket.
#[inline(always)]
pub(super) fn hash<F: Family>(
    key: HashKey,
    application: &Application,
    tuple: &Tuple<F::Address>,
) -> Option<u64> {
    let run = application.buckets;
    if run == BucketRun::NONE
        || tuple.protocol != Protocol::TCP
        || !application.flags.has(ApplicationFlags::UNTRACKED)
    {
        return None;
    }
    Some(crate::hash::enter(number::<F>(key, run, tuple)))
}

#[inline(always)]
fn role(bucket: &Bucket) -> Role {
    if bucket.last_resort == 0 {
        Role::Steered
    } else {
        Role::LastResort
    }
}

/// Makes the entry of a packet's flow that needs none, when the packet is a usual one, and returns the hop of its origin;
/// otherwise the other stages see to it.
#[inline(always)]
pub(super) fn make<F: Family, T: Tables>(
    tables: &T,
    context: &Context,
    segment: &Segment,
    arriving: &Tuple<F::Address>,
) -> Option<HopId> {
    // An IPv4 address in an IPv6 header would match the IPv4 application.
    F::address(arriving.source.into()).and(F::address(arriving.destination.into()))?;
    let key = ApplicationKey {
        address: arriving.destination.into(),
        port: arriving.destination_port,
        protocol: arriving.protocol,
        parity: context.parity,
    };
    let Shortcut {
        application,
        flags,
        buckets,
        ..
    } = match tables.shortcut(&key) {
        Some(shortcut) => shortcut,
        None => Shortcut::of(key, &tables.application(&key)?)?,
    };
    if !flags.has(ApplicationFlags::UNTRACKED) {
        // Lists may have come, or another way to choose: what had no entry before is asked as all others are.
        return None;
    }
    let number = number::<F>(context.settings.hash_key, buckets, arriving);
    let row = buckets.row(number, is_v6::<F>());
    let settled = tables.settled(row)?;
    let opens = segment.flags.opens();
    let (now, second) = (context.now, context.settings.second);
    let owner = tables.bucket(row, |bucket| {
        // As long as the configuration stays, new flows go where the first of them went.
        let steady = bucket.is_steady(context.generation);
        // The pool of last resort and what follows from it are rare.
        if bucket.may_be_tracked(settled) || (opens && !steady) || bucket.last_resort != 0 {
            return OriginId::NONE;
        }
        if now.wrapping_sub(bucket.seen) > second {
            bucket.seen = now;
        }
        bucket.owner
    })?;
    if owner == OriginId::NONE {
        return None;
    }
    let origin = tables.origin(owner)?;
    if !origin.forwarding.is_direct() || !serves_on(&origin, opens) {
        return None;
    }
    if opens {
        if tables.hop(origin.hop).is_none_or(|hop| hop.resolved == 0) {
            return None;
        }
        tables.count_flow(application, owner);
    }
    F::make(tables, entry::<F>(owner, &origin, application, arriving));
    Some(origin.hop)
}

/// Whether an origin takes a segment of a flow that it was given without an entry; the unusual is left to others.
#[inline(always)]
fn serves_on(origin: &Origin, opens: bool) -> bool {
    origin.state == OriginState::UP || (!opens && !flow::resets(origin) && origin.identity != 0)
}

/// The entry that a flow would have which needs none.
#[inline(always)]
fn entry<F: Family>(
    id: OriginId,
    origin: &Origin,
    application: u32,
    arriving: &Tuple<F::Address>,
) -> F::Flow {
    let core = FlowCore {
        origin: id,
        application,
        forwarding: origin.forwarding,
        side: FlowSide::CLIENT,
        source_port: arriving.source_port,
        destination_port: arriving.destination_port,
        ..FlowCore::default()
    };
    F::flow(core, arriving)
}

/// Who has the bucket's flows that have no entry.
#[inline(always)]
pub(super) fn owner<T: Tables>(tables: &T, row: u32) -> Option<Owner> {
    let bucket = tables.bucket(row, |bucket| *bucket)?;
    let origin = tables.origin(bucket.owner)?;
    let known = bucket.owner != OriginId::NONE && origin.identity != 0 && origin.forwarding.is_direct();
    known.then_some(Owner {
        id: bucket.owner,
        role: role(&bucket),
        resets: !role(&bucket).accepts(origin.state) && flow::resets(&origin),
    })
}

/// The entry of a flow that needs none, for whoever asks which origin a client's packet would go to: as [`flow::peek`].
/// `guarded`: not where access lists would have to be asked whether the client has such a flow.
#[inline(always)]
pub(super) fn peek<F: Family, T: Tables>(
    tables: &T,
    parity: Parity,
    guarded: bool,
    arriving: &Tuple<F::Address>,
    into: &mut F::Flow,
) -> bool {
    if arriving.protocol != Protocol::TCP {
        return false;
    }
    let key = ApplicationKey {
        address: arriving.destination.into(),
        port: arriving.destination_port,
        protocol: arriving.protocol,
        parity,
    };
    let (Some(settings), Some(application)) = (tables.settings(), tables.application(&key)) else {
        return false;
    };
    if guarded && access::applies(settings, &application) {
        return false;
    }
    let Some(row) = row::<F>(settings.hash_key, &application, arriving) else {
        return false;
    };
    let Some(Owner { id, .. }) = owner(tables, row) else {
        return false;
    };
    let Some(origin) = tables.origin(id) else {
        return false;
    };
    *into = entry::<F>(id, &origin, application.id, arriving);
    true
}

/// Takes a bucket for a flow that `id` was chosen for, in a role, or says that the flow needs an entry. `opens`: it is new;
/// `firsthand`: whoever asks the pools in this generation gets the same answer.
#[inline(always)]
pub(super) fn claim<T: Tables>(
    tables: &T,
    row: u32,
    opening: &Opening,
    (id, given): (OriginId, Role),
    opens: bool,
    firsthand: bool,
) -> Claim {
    let now = opening.now;
    let untracked = opening.application.flags.has(ApplicationFlags::UNTRACKED);
    let found = tables.bucket(row, |bucket| {
        // Whom the last resort gives is no steady choice: later flows may have another fate.
        if opens && firsthand && untracked && given == Role::Steered {
            bucket.choose(opening.generation, id);
        }
        *bucket
    });
    let Some(bucket) = found else {
        return Claim::Track;
    };
    let owner = bucket.owner;
    let last_resort = (given == Role::LastResort) as u32;
    let mut owned = owner == id && (!opens || bucket.last_resort == last_resort);
    // Flows of the last resort stay where they are when their origin is steered to again; those it was steered to may be reset
    // where the last resort's are not. The application's flows may have entries from now on, but for those that have none.
    let promoted = owner == id && given == Role::Steered;
    if untracked && !owned && (promoted || owner == OriginId::NONE || is_over(tables, opening, &bucket)) {
        if owner == OriginId::NONE {
            // There may be entries of a time without buckets.
            note(tables, row, now);
        }
        owned = owner == id || tables.own_bucket(row, owner, id);
        if owned {
            tables.bucket(row, |bucket| bucket.last_resort = last_resort);
        }
    }
    if opens && !untracked {
        owned = false;
    }
    if owned {
        tables.bucket(row, |bucket| bucket.seen = now);
        return Claim::Owned;
    }
    note(tables, row, now);
    Claim::Track
}

/// As [`Bucket::note`].
#[inline(always)]
pub(super) fn note<T: Tables>(tables: &T, row: u32, now: u32) {
    tables.bucket(row, |bucket| bucket.note(now));
}

/// Whether no flow goes on that the bucket's owner has without an entry.
#[inline(always)]
fn is_over<T: Tables>(tables: &T, opening: &Opening, bucket: &Bucket) -> bool {
    let Some(origin) = tables.origin(bucket.owner) else {
        return true;
    };
    let timeouts = tables.timeouts(opening.application.id).unwrap_or_default();
    // `seen` may be a second old.
    let second = tables.settings().map_or(0, |settings| settings.second);
    let idle = bucket.idle(opening.now).saturating_sub(second);
    // Whoever is to be reset is told so, and his origin, as long as the bucket is in its hands.
    let resets = !role(bucket).accepts(origin.state) && flow::resets(&origin);
    let after = if resets {
        timeouts.tcp_closing
    } else {
        timeouts.tcp
    };
    origin.identity == 0 || !origin.forwarding.is_direct() || idle > after
}
