//! Packets that are traced: one write of the settings, and nothing else.

use super::world::*;
use crate::engine::{Event, Kept};
use crate::image::TableOp;
use lb_common::abi::SettingsFlags;

#[test]
fn tracing_is_one_write_and_no_new_generation() {
    let plain = || web(vec![unmonitored("first", &["10.0.0.1"])], None);
    let mut world = World::settled(plain());
    let traced = |world: &World| {
        let settings = world.maps.settings;
        (settings.flags.has(SettingsFlags::TRACE), settings.trace_until)
    };
    let before = world.maps.settings;
    assert_eq!(traced(&world), (false, 0));
    for until in [7, 9, 0] {
        world.applied.clear();
        world.handle(Event::Trace(until));
        assert_eq!(traced(&world), (until != 0, until));
        let applied = world.applied.concat();
        assert!(matches!(applied[..], [TableOp::Settings(_)]), "{applied:?}");
    }
    assert_eq!(world.maps.settings, before);
    world.applied.clear();
    world.handle(Event::Trace(0));
    assert!(world.applied.concat().is_empty());

    // Another configuration does not end it, another daemon does.
    world.handle(Event::Trace(11));
    world.configure(plain());
    assert_eq!(traced(&world), (true, 11));
    let mut next = world.restart(Kept::default());
    next.configure(plain());
    assert_eq!(traced(&next), (false, 0));
}
