//! What a flow's packets say about its life.

use super::transport::Segment;
use crate::abi::{FlowCore, FlowSide, Protocol, TcpState, Timeouts};

/// The flags byte of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// Whether the segment opens a connection: SYN and nothing that contradicts it.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// The state of an entry after a packet of its direction. States gain bits, so both directions' entries may be updated in
/// any order on any CPU and still agree; they lose some only after a reset.
///
/// A reset may be a stranger's, and its receiver may know so. When both sides go on after it, the connection is alive. When
/// the origin answers a SYN after it, that is another connection.
///
/// Of a flow that is forwarded directly the origin's side is never seen: its client's word is taken for the handshake (so
/// such flows fill no more than their share of the memory of established ones), and
/// when the client closes, the flow closes, until the client goes on. Should it do so after longer than a closing flow is
/// remembered, then its next segment is most likely given to the same origin, because that is how an origin is chosen; where
/// flows need no entries, to the owner of its bucket.
#[inline(always)]
pub fn step(core: &FlowCore, segment: &Segment) -> TcpState {
    let flags = segment.flags;
    let mut bits = core.tcp.0;
    let origin = core.side == FlowSide::ORIGIN;
    if segment.protocol != Protocol::TCP {
        if origin {
            bits |= TcpState::ANSWERED;
        }
        return TcpState(bits);
    }
    if flags.has(TcpFlags::RST) {
        // Whoever has gone on did so before.
        return TcpState((bits | TcpState::RESET) & !TcpState::BOTH_GO_ON);
    }
    if core.tcp.closing() && !core.tcp.has(TcpState::ENDED) {
        bits = after_close(core, segment);
    }
    if origin {
        if flags.has(TcpFlags::SYN | TcpFlags::ACK) {
            bits |= TcpState::ANSWERED;
        }
        if flags.has(TcpFlags::FIN) {
            bits |= TcpState::ORIGIN_FIN;
        }
    } else {
        let direct = core.forwarding.is_direct();
        let answered = direct || bits & TcpState::ANSWERED != 0;
        if flags.has(TcpFlags::ACK) && !flags.has(TcpFlags::SYN) && answered {
            bits |= TcpState::ESTABLISHED;
        }
        if flags.has(TcpFlags::FIN) {
            bits |= TcpState::CLIENT_FIN;
            if direct {
                bits |= TcpState::ORIGIN_FIN;
            }
        }
    }
    TcpState(bits)
}

/// What a segment that resets nothing makes of a closing connection.
#[inline(always)]
fn after_close(core: &FlowCore, segment: &Segment) -> u8 {
    let mut bits = core.tcp.0;
    let reset = core.tcp.has(TcpState::RESET);
    if segment.flags.has(TcpFlags::SYN) {
        // The origin had no connection any more.
        let again = reset && core.side == FlowSide::ORIGIN && segment.flags.has(TcpFlags::ACK);
        return if again { TcpState::NEW.0 } else { bits };
    }
    if core.forwarding.is_direct() {
        // Whoever has closed acknowledges what still comes, but sends nothing new.
        let goes_on = segment.payload != 0 && !segment.flags.has(TcpFlags::FIN);
        if reset || goes_on || core.asked != 0 {
            bits &= !(TcpState::RESET | TcpState::CLIENT_FIN | TcpState::ORIGIN_FIN);
        }
    } else if reset {
        bits |= if core.side == FlowSide::ORIGIN {
            TcpState::ORIGIN_GOES_ON
        } else {
            TcpState::CLIENT_GOES_ON
        };
        if bits & TcpState::BOTH_GO_ON == TcpState::BOTH_GO_ON {
            bits &= !(TcpState::RESET | TcpState::BOTH_GO_ON);
        }
    }
    bits
}

/// Whether a SYN on a closing flow is for its origin to judge. Ports are used again (RFC 9293 section 3.6.1), and where both
/// sides are known to have closed, a new flow begins. But both the reset, or of a direct connection all that is seen of its
/// end, and the SYN may be a stranger's. So the SYN goes to the same origin: when that still has the connection, it asks the
/// client by an acknowledgement (RFC 5961 section 4), and goes on; otherwise it opens another.
#[inline(always)]
pub fn in_doubt(core: &FlowCore) -> bool {
    let reset = core.tcp.has(TcpState::RESET) && !core.tcp.over();
    core.tcp.has(TcpState::ESTABLISHED)
        && !core.tcp.has(TcpState::ENDED)
        && (reset || core.forwarding.is_direct())
}

/// Whether a flow has shown that somebody is there who means it, so that no flood may push it out of memory.
#[inline(always)]
pub fn proven(core: &FlowCore, protocol: Protocol) -> bool {
    if protocol == Protocol::TCP {
        core.tcp.has(TcpState::ESTABLISHED) && !core.tcp.closing()
    } else {
        core.tcp.has(TcpState::ANSWERED)
    }
}

/// Whether a flow that has shown so stays where no flood reaches it.
#[inline(always)]
pub fn stays(core: &FlowCore, protocol: Protocol) -> bool {
    protocol != Protocol::TCP || core.tcp.has(TcpState::ESTABLISHED) && !core.tcp.over()
}

/// Idle time in jiffies after which a flow in this state is forgotten.
#[inline(always)]
pub fn timeout(timeouts: &Timeouts, protocol: Protocol, state: TcpState) -> u32 {
    if protocol != Protocol::TCP {
        timeouts.udp
    } else if state.closing() {
        timeouts.tcp_closing
    } else if state.has(TcpState::ESTABLISHED) {
        timeouts.tcp
    } else {
        timeouts.tcp_handshake
    }
}

/// How fresh an entry is at jiffy `now`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Age {
    /// Seen within the last eighth of its timeout: nothing needs to be written.
    Fresh,
    /// Alive, but its time stamp should be renewed.
    Aged,
    /// Its timeout has passed.
    Expired,
}

/// The age of an entry. Jiffies wrap; differences do not.
#[inline(always)]
pub fn age(timeouts: &Timeouts, protocol: Protocol, core: &FlowCore, now: u32) -> Age {
    let idle = now.wrapping_sub(core.seen);
    // Another CPU may have stamped the entry a jiffy after this one read its clock.
    if idle > u32::MAX / 2 {
        return Age::Fresh;
    }
    let timeout = timeout(timeouts, protocol, core.tcp);
    if idle > timeout {
        Age::Expired
    } else if idle > timeout >> 3 {
        Age::Aged
    } else {
        Age::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Forwarding;

    const SYN: TcpFlags = TcpFlags(TcpFlags::SYN);
    const ACK: TcpFlags = TcpFlags(TcpFlags::ACK);
    const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN | TcpFlags::ACK);
    const FIN_ACK: TcpFlags = TcpFlags(TcpFlags::FIN | TcpFlags::ACK);
    const RST: TcpFlags = TcpFlags(TcpFlags::RST);

    fn after_by(forwarding: Forwarding, segments: &[(TcpFlags, FlowSide)]) -> TcpState {
        segments.iter().fold(TcpState::NEW, |tcp, &(flags, side)| {
            let core = FlowCore {
                tcp,
                side,
                forwarding,
                ..FlowCore::default()
            };
            step(&core, &segment(flags, 0))
        })
    }

    fn segment(flags: TcpFlags, payload: usize) -> Segment {
        Segment {
            protocol: Protocol::TCP,
            flags,
            payload,
            ..Segment::default()
        }
    }

    fn after(segments: &[(TcpFlags, FlowSide)]) -> TcpState {
        after_by(Forwarding::NAT, segments)
    }

    #[test]
    fn connections_open_and_close() {
        use FlowSide as S;
        let open = [(SYN, S::CLIENT), (SYN_ACK, S::ORIGIN), (ACK, S::CLIENT)];
        assert_eq!(after(&open[..1]), TcpState::NEW);
        assert!(!after(&open[..2]).has(TcpState::ESTABLISHED));
        assert!(after(&open).has(TcpState::ESTABLISHED) && !after(&open).closing());
        // An ACK that no SYN-ACK preceded proves nothing.
        assert!(!after(&[(SYN, S::CLIENT), (ACK, S::CLIENT)]).has(TcpState::ESTABLISHED));
        let half = [open.as_slice(), &[(FIN_ACK, S::CLIENT), (ACK, S::ORIGIN)]].concat();
        assert!(!after(&half).closing(), "a half-closed connection may live on");
        let closed = [half.as_slice(), &[(FIN_ACK, S::ORIGIN)]].concat();
        assert!(after(&closed).closing());
        let simultaneous = [open.as_slice(), &[(FIN_ACK, S::ORIGIN), (FIN_ACK, S::CLIENT)]].concat();
        assert!(after(&simultaneous).closing());
        assert!(after(&[open.as_slice(), &[(RST, S::ORIGIN)]].concat()).closing());
    }

    #[test]
    fn a_reset_is_not_believed_when_both_go_on() {
        use FlowSide as S;
        let open = [(SYN, S::CLIENT), (SYN_ACK, S::ORIGIN), (ACK, S::CLIENT)];
        for (from, first, second) in [
            (S::CLIENT, S::ORIGIN, S::CLIENT),
            (S::CLIENT, S::CLIENT, S::ORIGIN),
            (S::ORIGIN, S::CLIENT, S::ORIGIN),
        ] {
            let reset = [open.as_slice(), &[(RST, from)]].concat();
            assert!(after(&reset).closing() && !after(&reset).over());
            let one = [reset.as_slice(), &[(ACK, first), (ACK, first)]].concat();
            assert!(after(&one).closing());
            let both = [one.as_slice(), &[(ACK, second)]].concat();
            assert_eq!(after(&both), after(&open));
            // What came before the last reset does not count.
            let again = [one.as_slice(), &[(RST, from), (ACK, second)]].concat();
            assert!(after(&again).closing());
            // Nor does a reset, or what opens a connection.
            let opened = [one.as_slice(), &[(SYN, S::CLIENT), (RST, second)]].concat();
            assert!(after(&opened).closing());
            let answered = [one.as_slice(), &[(SYN_ACK, S::ORIGIN)]].concat();
            assert_eq!(after(&answered), after(&open[..2]), "another connection");
        }
        // Who refuses a connection means it.
        assert!(after(&[(SYN, S::CLIENT), (RST, S::ORIGIN)]).over());
    }

    #[test]
    fn a_direct_connection_is_open_again_when_its_client_goes_on() {
        let core = |tcp, asked| FlowCore {
            tcp: TcpState(tcp),
            forwarding: Forwarding::DSR_GUE,
            asked,
            ..FlowCore::default()
        };
        let closed = TcpState::ESTABLISHED | TcpState::CLIENT_FIN | TcpState::ORIGIN_FIN;
        let reset = TcpState::ESTABLISHED | TcpState::RESET;
        let cases = [
            (closed, 0, ACK, 0, true),
            (closed, 0, ACK, 1, false),
            (closed, 0, FIN_ACK, 1, true),
            // The handshake of another.
            (closed, 0, SYN, 0, true),
            (closed, 1, ACK, 0, false),
            (reset, 0, RST, 0, true),
            (reset, 0, ACK, 0, false),
            (reset, 0, SYN, 0, true),
            (reset, 0, FIN_ACK, 0, true),
        ];
        for (tcp, asked, flags, payload, closing) in cases {
            let after = step(&core(tcp, asked), &segment(flags, payload));
            assert_eq!(after.closing(), closing, "{tcp} {asked} {flags:?} {payload}");
        }
        // The node itself has reset it.
        let ended = step(&core(reset | TcpState::ENDED, 0), &segment(ACK, 1));
        assert!(ended.closing());
    }

    #[test]
    fn of_a_direct_connection_the_client_tells_all() {
        use FlowSide as S;
        let after = |segments: &[_]| after_by(Forwarding::DSR_L2, segments);
        let open = [(SYN, S::CLIENT), (ACK, S::CLIENT)];
        assert_eq!(after(&open[..1]), TcpState::NEW);
        assert!(after(&open).has(TcpState::ESTABLISHED) && !after(&open).closing());
        assert!(after(&[open.as_slice(), &[(FIN_ACK, S::CLIENT)]].concat()).closing());
        assert!(after(&[open.as_slice(), &[(RST, S::CLIENT)]].concat()).closing());
    }

    #[test]
    fn a_datagram_proves_nothing_until_it_is_answered() {
        let datagram = Segment {
            protocol: Protocol::UDP,
            ..Segment::default()
        };
        let mut core = FlowCore::default();
        core.tcp = step(&core, &datagram);
        assert!(!proven(&core, Protocol::UDP));
        core.side = FlowSide::ORIGIN;
        core.tcp = step(&core, &datagram);
        assert!(proven(&core, Protocol::UDP));
    }

    #[test]
    fn entries_age_by_their_state() {
        let timeouts = Timeouts {
            tcp: 800,
            tcp_handshake: 80,
            udp: 160,
            ..Timeouts::default()
        };
        let core = |seen, tcp| FlowCore {
            seen,
            tcp: TcpState(tcp),
            ..FlowCore::default()
        };
        let age = |protocol, core: &FlowCore, now| super::age(&timeouts, protocol, core, now);
        let tcp = core(1000, TcpState::ANSWERED | TcpState::ESTABLISHED);
        assert_eq!(age(Protocol::TCP, &tcp, 1100), Age::Fresh);
        assert_eq!(age(Protocol::TCP, &tcp, 1101), Age::Aged);
        assert_eq!(age(Protocol::TCP, &tcp, 1801), Age::Expired);
        assert_eq!(
            age(Protocol::TCP, &tcp, 999),
            Age::Fresh,
            "clocks of CPUs differ by a jiffy"
        );
        assert_eq!(age(Protocol::TCP, &core(1000, 0), 1081), Age::Expired);
        assert_eq!(
            age(Protocol::UDP, &core(u32::MAX - 10, 0), 150),
            Age::Expired,
            "jiffies wrap"
        );
    }
}
