//! Switches and weights by name, and what is kept of them.

use super::*;
use crate::cloudflare::Number;
use lb_core::model::Origin;
use std::time::Duration;

fn operate(
    world: &mut World,
    origin: Option<&str>,
    name: &str,
    operation: Operation,
) -> Result<Value, Failure> {
    operate_kind(world, Kind::Pool, origin, name, operation)
}

fn operate_kind(
    world: &mut World,
    kind: Kind,
    origin: Option<&str>,
    name: &str,
    operation: Operation,
) -> Result<Value, Failure> {
    let action = Action::Operate {
        name: name.to_owned(),
        origin: origin.map(str::to_owned),
        operation,
    };
    world.change(kind, action)
}

fn origin(world: &World, pool: &str, name: &str) -> Origin {
    let pool = world.compiled.config.pool(pool).unwrap();
    pool.origins
        .iter()
        .find(|origin| origin.name == name)
        .unwrap()
        .clone()
}

#[test]
fn origins_of_the_file_are_overridden_until_that_is_reset() {
    let mut world = World::new(FILE);
    let before = origin(&world, "eu", "b");
    let shown = operate(&mut world, Some("b"), "eu", Operation::Weight(Number(0.25))).unwrap();
    assert_eq!(shown["origins"][0]["weight"], 0.25);
    assert_eq!(origin(&world, "eu", "b").weight.hundredths(), 25);
    operate(&mut world, Some("b"), "eu", Operation::Drain(Some(Number(30.0)))).unwrap();
    let drained = origin(&world, "eu", "b");
    assert_eq!(
        (drained.enabled, drained.drain_timeout),
        (false, Some(Duration::from_secs(30)))
    );
    // Enabled in the file, and so again: of that nothing is left to override.
    operate(&mut world, Some("b"), "eu", Operation::Enable).unwrap();
    let subject = Subject::Origin {
        pool: "eu".to_owned(),
        origin: "b".to_owned(),
    };
    let left = world.catalog.overrides().get(&subject).unwrap();
    assert_eq!(left.fields(), ["weight"]);
    operate(&mut world, Some("b"), "eu", Operation::Reset).unwrap();
    assert_eq!(origin(&world, "eu", "b"), before);
    assert!(world.catalog.overrides().iter().next().is_none());
    // The other one was never touched.
    assert!(origin(&world, "eu", "a").enabled);
}

#[test]
fn pools_balancers_and_applications_of_the_file_are_switched() {
    let mut world = World::new(FILE);
    for (kind, name) in [
        (Kind::Pool, "eu"),
        (Kind::LoadBalancer, "lb.file"),
        (Kind::Application, "web"),
    ] {
        let enabled = |world: &World| {
            let config = &world.compiled.config;
            match kind {
                Kind::Pool => config.pool(name).unwrap().enabled,
                Kind::LoadBalancer => config.load_balancer(name).unwrap().enabled,
                _ => {
                    config
                        .applications
                        .iter()
                        .find(|found| found.name == name)
                        .unwrap()
                        .enabled
                }
            }
        };
        operate_kind(&mut world, kind, None, name, Operation::Disable).unwrap();
        assert!(!enabled(&world), "{name}");
        let shown = world.catalog.named(kind, name).unwrap().shown();
        assert_eq!(shown["enabled"], false, "{name}");
        operate_kind(&mut world, kind, None, name, Operation::Enable).unwrap();
        assert!(enabled(&world), "{name}");
    }
    // The file is checked with what it disables disabled.
    let mut world =
        World::new(&FILE.replace("protocol = \"tcp/80\"", "protocol = \"tcp/80\"\nenabled = false"));
    let failure = operate_kind(&mut world, Kind::Application, None, "web", Operation::Enable).unwrap_err();
    assert_eq!(failure.status, 403);
    assert!(failure.reasons[0].message.contains("lb.toml:20"), "{failure:?}");
}

#[test]
fn objects_of_the_api_are_changed_themselves() {
    let mut world = World::new(FILE);
    everything(&mut world);
    let shown = operate(&mut world, Some("z"), "us", Operation::Drain(Some(Number(5.0)))).unwrap();
    assert_eq!(
        (
            &shown["origins"][0]["enabled"],
            &shown["origins"][0]["drain_timeout"]
        ),
        (&json!(false), &json!(5))
    );
    assert!(shown["origins"][0]["disabled_at"].is_string());
    assert_eq!(
        origin(&world, "us", "z").drain_timeout,
        Some(Duration::from_secs(5))
    );
    let shown = operate(&mut world, Some("z"), "us", Operation::Enable).unwrap();
    assert!(shown["origins"][0].get("drain_timeout").is_none());
    assert!(origin(&world, "us", "z").enabled);
    operate(&mut world, None, "us", Operation::Disable).unwrap();
    assert!(!world.compiled.config.pool("us").unwrap().enabled);
    assert!(world.catalog.overrides().iter().next().is_none());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut world = World::new(FILE);
    everything(&mut world);
    let weight = |weight| Operation::Weight(Number(weight));
    for (kind, name, origin, operation, status, words) in [
        (
            Kind::Pool,
            "eu",
            Some("c"),
            Operation::Enable,
            404,
            "pool `eu` has no origin `c` (did you mean `b`?)",
        ),
        (
            Kind::Pool,
            "ue",
            Some("a"),
            Operation::Enable,
            404,
            "there is no pool `ue`",
        ),
        (
            Kind::Pool,
            "eu",
            Some("a"),
            weight(1.5),
            400,
            "weight 1.5 is outside 0 to 1",
        ),
        (
            Kind::Pool,
            "eu",
            Some("a"),
            weight(0.005),
            400,
            "not a multiple of 0.01",
        ),
        (
            Kind::Pool,
            "eu",
            Some("a"),
            Operation::Drain(Some(Number(-1.0))),
            400,
            "deadline: -1 is outside",
        ),
        (
            Kind::Pool,
            "eu",
            None,
            weight(1.0),
            400,
            "weight has no meaning for a pool",
        ),
        (
            Kind::Monitor,
            "tcp-check",
            None,
            Operation::Disable,
            400,
            "disable has no meaning for a monitor",
        ),
        (
            Kind::Pool,
            "us",
            None,
            Operation::Reset,
            400,
            "was made through the API",
        ),
    ] {
        let failure = operate_kind(&mut world, kind, origin, name, operation).unwrap_err();
        assert_eq!(failure.status, status, "{failure:?}");
        assert!(failure.reasons[0].message.contains(words), "{words}: {failure:?}");
    }
}

#[test]
fn overrides_are_rows_and_go_with_what_they_are_for() {
    let mut world = World::new(FILE);
    let empty = world.catalog.clone();
    operate(&mut world, Some("a"), "eu", Operation::Disable).unwrap();
    operate_kind(
        &mut world,
        Kind::LoadBalancer,
        None,
        "lb.file",
        Operation::Disable,
    )
    .unwrap();
    let changes = super::rows(&empty, &world.catalog);
    let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["overrides/load_balancers/lb.file", "overrides/pools/eu/a"]);
    let rows = changes.into_iter().map(|RowChange { key, value, .. }| Row {
        key,
        value: value.unwrap(),
    });
    let again: Overrides = rows
        .map(|row| Overrides::of_row(&row).unwrap().unwrap())
        .collect();
    assert_eq!(&again, world.catalog.overrides());
    assert!(super::rows(&world.catalog, &world.catalog.clone()).is_empty());
    // A row of another thing is not one, and a broken one is told.
    let row = |key: &str, value: &str| Row {
        key: key.to_owned(),
        value: value.into(),
    };
    assert!(Overrides::of_row(&row("pools/x", "{}")).is_none());
    assert!(
        Overrides::of_row(&row("overrides/pools/eu", "?"))
            .unwrap()
            .is_err()
    );
    assert!(
        Overrides::of_row(&row("overrides/nothing/eu", "{\"since\":1}"))
            .unwrap()
            .is_err()
    );
    // The file has lost the origin.
    let file = FILE.replace("[pools.eu.origins.a]\naddress = \"10.0.0.12\"\nport = 80\n", "");
    let file = Arc::new(FileObjects::new(&Source::new("/etc/lb/lb.toml", &file), 1));
    let later = world.catalog.with_file(file);
    let gone = super::rows(&world.catalog, &later);
    assert_eq!(gone.len(), 1);
    assert_eq!(
        (gone[0].key.as_str(), &gone[0].value),
        ("overrides/pools/eu/a", &None)
    );
}
