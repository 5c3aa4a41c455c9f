//! Permission for aya's userspace maps to copy these types byte by byte.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]

macro_rules! pod {
    ($($type:ident)*) => { $(
        // SAFETY: bytemuck's derive proved that the type is repr(C) or transparent, without padding, valid for any bytes.
        unsafe impl aya::Pod for super::$type {}
    )* };
}

pod!(AccessKey AccessRule Affinity AffinityKey Application ApplicationKey Bucket Country CountryKey Flow4 Flow6 FlowKey4 FlowKey6);
pod!(FragmentFlow FragmentKey Hop Interface Ip Load Origin PathMtu Pool PortSpan Route RouteKey Settings Shortcut Slot SourceKey Timeouts);
pod!(Tracing Traffic Vip VipKey);

// SAFETY: as above.
unsafe impl aya::Pod for crate::tunnel::Local {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::tunnel::probe::Probe {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::tunnel::probe::AnswerKey {}
// SAFETY: as above.
unsafe impl aya::Pod for crate::tunnel::probe::Answer {}
