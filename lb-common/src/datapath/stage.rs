//! The stages of the pipeline, each a program of its own in the kernel.

macro_rules! stages {
    ($($(#[$doc:meta])* $variant:ident = $program:literal,)*) => {
        /// One stage.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        pub enum Stage { $($(#[$doc])* $variant,)* }

        impl Stage {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of its program.
            pub const fn program(self) -> &'static str {
                match self { $(Self::$variant => $program,)* }
            }

            /// Its number in the map of stages.
            pub const fn index(self) -> u32 {
                self as u32
            }
        }
    };
}

stages! {
    /// Packets of established flows, and those that are not ours. The program that is attached.
    Known = "lb",
    /// Packets of flows that are not established, or not any more.
    Young = "lb_young",
    /// Decides who may open a flow: ranges of ports, access, rates.
    Admit = "lb_admit",
    /// Chooses the origin of a new flow.
    Select = "lb_select",
    /// Remembers a new flow.
    Connect = "lb_connect",
    /// Sends a packet by its flow's entry.
    Send = "lb_send",
    /// Takes a flow that ends out of the memory of established ones.
    Retire = "lb_retire",
    /// Changes the head of a frame: outer headers, VLAN tags.
    Wrap = "lb_wrap",
    /// ICMP and ICMPv6.
    Icmp = "lb_icmp",
    /// Fragments of datagrams.
    Fragment = "lb_fragment",
    /// Turns a packet into the node's own answer.
    Reply = "lb_reply",
    /// Keeps a packet that is traced as it came.
    Tap = "lb_tap",
    /// What [`Self::Known`] does, for a packet that is traced.
    Traced = "lb_traced",
}
