//! What is only called otherwise stays what it is.

use super::*;

/// By name: what flows and health of the API's pool and of its origins are known by.
fn known(world: &World, pool: &str) -> (String, Vec<(String, String)>) {
    let pool = world.compiled.config.pool(pool).unwrap();
    let origins = pool.origins.iter();
    let origins = origins.map(|origin| (origin.name.clone(), origin.identity().to_owned()));
    (pool.identity().to_owned(), origins.collect())
}

#[test]
fn flows_and_health_are_known_by_what_stays() {
    let mut world = World::new(FILE);
    let made = everything(&mut world);
    let pool = id(&made["pool"]);
    let names = |names: &[(&str, &str)]| -> Vec<(String, String)> {
        let names = names.iter();
        names
            .map(|(name, first)| ((*name).to_owned(), (*first).to_owned()))
            .collect()
    };
    let same = names(&[("z", "z"), ("a", "a"), ("v6", "v6")]);
    assert_eq!(known(&world, "us"), (pool.clone(), same.clone()));
    let mut merge = |body: Value| {
        let action = Action::Merge(pool.clone(), fields(body));
        world.change(Kind::Pool, action).unwrap();
    };
    merge(json!({"name": "usa"}));
    // The first two change their names, the third one its place; and there is a new one with the name of a former one.
    merge(json!({"origins": [
        {"name": "a", "address": "10.1.0.1", "port": 80},
        {"name": "new", "address": "10.1.0.2", "port": 80},
        {"name": "v6", "address": "2001:db8:1::2"},
        {"name": "z", "address": "10.1.0.9"},
    ]}));
    let expected = names(&[("a", "z"), ("new", "a"), ("v6", "v6"), ("z", "z-2")]);
    assert_eq!(known(&world, "usa"), (pool.clone(), expected.clone()));
    assert_eq!(world.compiled.config.load_balancers[1].default_pools[0], "usa");
    // Clients do not see it, and a restart does not lose it.
    let entry = Arc::clone(world.catalog.find(Kind::Pool, &pool).unwrap());
    assert!(!entry.shown().to_string().contains("first_names"));
    let row = Row {
        key: entry.key(),
        value: entry.value(),
    };
    assert_eq!(Entry::of_row(&row).unwrap(), *entry);
    // What is sent back as it was answered changes nothing.
    let action = Action::Replace(pool.clone(), fields(entry.shown()));
    world.change(Kind::Pool, action).unwrap();
    assert_eq!(known(&world, "usa"), (pool.clone(), expected));
    // The name is free again, for a pool that is another one.
    let other = world.create(
        Kind::Pool,
        json!({"name": "us", "origins": [{"name": "z", "address": "10.1.0.1", "port": 80}]}),
    );
    assert_eq!(known(&world, "us"), (id(&other), names(&[("z", "z")])));
}

#[test]
fn nobody_says_what_something_is_known_by() {
    let mut world = World::new(FILE);
    for body in [
        json!({"name": "p", "identity": "x", "origins": [{"name": "a", "address": "10.0.0.1"}]}),
        json!({"name": "p", "origins": [{"name": "a", "address": "10.0.0.1", "identity": "x"}]}),
    ] {
        let (status, reasons) = world.refused(Kind::Pool, Action::Create(fields(body)));
        assert!(
            status == 400 && reasons[0].1.contains("unknown field"),
            "{reasons:?}"
        );
    }
    // The file's are known by their names.
    assert_eq!(known(&world, "eu").0, "eu");
}
