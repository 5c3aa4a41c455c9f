//! Objects as text, and back.

use super::*;

fn text(world: &World, kind: Kind, name: &str) -> String {
    for_people(&world.catalog, world.catalog.called(kind, name).unwrap())
}

fn declare(world: &mut World, kind: Kind, replaces: Option<&str>, text: &str) -> Result<Value, Failure> {
    let action = Action::Declare(Declare {
        object: parse_text(kind, text).unwrap(),
        replaces: replaces.map(str::to_owned),
        seen: None,
    });
    world.change(kind, action)
}

/// Everything, with a monitor that has a name.
fn named(world: &mut World) -> BTreeMap<&'static str, Value> {
    let made = everything(world);
    let action = Action::Merge(id(&made["monitor"]), fields(json!({"description": "quick"})));
    world.change(Kind::Monitor, action).unwrap();
    let monitor = id(&made["monitor"]);
    world.create(
        Kind::MonitorGroup,
        json!({"description": "both", "members": [{"monitor_id": monitor}, {"monitor_id": world.of_file(Kind::Monitor, "tcp-check"), "monitoring_only": true}]}),
    );
    made
}

#[test]
fn the_text_of_an_object_sent_back_changes_nothing() {
    let mut world = World::new(FILE);
    named(&mut world);
    for (kind, name) in [
        (Kind::Monitor, "quick"),
        (Kind::MonitorGroup, "both"),
        (Kind::Pool, "us"),
        (Kind::LoadBalancer, "*.example.com"),
        (Kind::Application, "game.example.com"),
    ] {
        let (shown, config) = (text(&world, kind, name), world.compiled.config.clone());
        let before = world.catalog.called(kind, name).unwrap().body.clone();
        declare(&mut world, kind, Some(name), &shown).unwrap();
        let after = &world.catalog.called(kind, name).unwrap().body;
        if kind != Kind::MonitorGroup {
            assert_eq!(*after, before, "{shown}");
        }
        assert_eq!(world.compiled.config, config, "{shown}");
        assert_eq!(text(&world, kind, name), shown);
        assert_eq!(
            write_text(&parse_text(kind, &shown).unwrap())
                .matches('=')
                .count(),
            shown.matches('=').count()
        );
    }
    assert_eq!(
        text(&world, Kind::Pool, "us"),
        "[pools.us]\nforwarding = \"dnat\"\nmonitor = \"quick\"\n\n[pools.us.origins.z]\naddress = \"10.1.0.1\"\nport = 80\n\
         weight = 0.25\n\n[pools.us.origins.a]\naddress = \"10.1.0.2\"\nenabled = false\nport = 80\n\n\
         [pools.us.origins.v6]\naddress = \"2001:db8:1::1\"\n"
    );
    // What the file declares is text as well.
    assert!(text(&world, Kind::Monitor, "tcp-check").starts_with("[monitors.tcp-check]\n"));
}

#[test]
fn names_are_those_that_people_use() {
    let mut world = World::new(FILE);
    let made = named(&mut world);
    assert_eq!(
        world.catalog.called(Kind::Monitor, "quick").unwrap().id.as_str(),
        id(&made["monitor"])
    );
    let (status, reasons) = {
        let failure = world.catalog.called(Kind::Monitor, "quik").unwrap_err();
        (failure.status, failure.reasons[0].message.clone())
    };
    assert_eq!(
        (status, reasons.as_str()),
        (404, "there is no monitor `quik` (did you mean `quick`?)")
    );
    // A second one of that name is an ambiguity, and both are known by their ids from then on.
    declare(
        &mut world,
        Kind::Monitor,
        None,
        "[monitors.quick]\ntype = \"tcp\"",
    )
    .unwrap();
    assert_eq!(
        world.catalog.called(Kind::Monitor, "quick").unwrap_err().status,
        409
    );
    assert!(text(&world, Kind::Pool, "us").contains(&format!("monitor = {}", made["monitor"]["id"])));
    let pool = "[pools.p]\nmonitor = \"quick\"\n[pools.p.origins.a]\naddress = \"10.9.0.1\"";
    assert_eq!(
        declare(&mut world, Kind::Pool, None, pool).unwrap_err().status,
        409
    );
    // Another name is a new name.
    let renamed = text(&world, Kind::Pool, "us").replace("pools.us", "pools.usa");
    declare(&mut world, Kind::Pool, Some("us"), &renamed).unwrap();
    assert_eq!(
        world.catalog.called(Kind::Pool, "usa").unwrap().id.as_str(),
        id(&made["pool"])
    );
}

#[test]
fn what_the_node_has_addresses_for_stays_unsaid() {
    let mut world = World::new(FILE);
    let made = "[applications.dns]\nprotocol = \"udp/53\"\norigin_direct = [\"udp://10.0.0.1:53\"]\n";
    let shown = declare(&mut world, Kind::Application, None, made).unwrap();
    assert_eq!(
        shown["edge_ips"],
        json!({"type": "dynamic", "connectivity": "all"})
    );
    assert_eq!(text(&world, Kind::Application, "dns").replace("\n\n", "\n"), made);
    let four = format!("{made}edge_ips = {{ type = \"dynamic\", connectivity = \"ipv4\" }}\n");
    declare(&mut world, Kind::Application, Some("dns"), &four).unwrap();
    assert!(text(&world, Kind::Application, "dns").contains("connectivity = \"ipv4\""));
}

#[test]
fn a_later_change_is_not_overwritten() {
    let mut world = World::new(FILE);
    everything(&mut world);
    let object = parse_text(Kind::Pool, &text(&world, Kind::Pool, "us")).unwrap();
    let seen = world.catalog.called(Kind::Pool, "us").unwrap().modified;
    let action = |seen| {
        Action::Declare(Declare {
            object: object.clone(),
            replaces: Some("us".to_owned()),
            seen: Some(seen),
        })
    };
    world.change(Kind::Pool, action(seen)).unwrap();
    let (status, reasons) = world.refused(Kind::Pool, action(seen));
    assert_eq!(status, 409);
    assert!(reasons[0].1.contains("changed by somebody else"), "{reasons:?}");
}

#[test]
fn mistakes_are_told_at_their_line() {
    let mut world = World::new(FILE);
    let text = "# a comment\n[pools.p]\nminimum_origins = -1\ncolour = 1\nmonitor = \"x\"\n\n[pools.p.origins.a]\naddress = \"10.0.0.1\"\n\
                [pools.p.origins.b]\nweight = 2\naddress = \"10.0.0.2\"\n";
    let object = parse_text(Kind::Pool, text).unwrap();
    let mut told = |text: &str| {
        let failure = declare(&mut world, Kind::Pool, None, text).unwrap_err();
        let places = places(text, &object, &failure);
        places
            .into_iter()
            .map(|mistake| (mistake.place.unwrap(), mistake.message))
            .collect::<Vec<_>>()
    };
    let lines = told(text);
    assert!(
        lines
            .iter()
            .any(|((line, _), message)| *line == 4 && message.contains("colour: unknown field")),
        "{lines:?}"
    );
    let lines = told(&text.replace("colour = 1\n", "\n"));
    let all: Vec<usize> = lines.iter().map(|((line, _), _)| *line).collect();
    assert!(
        all.contains(&3) && all.contains(&5) && all.contains(&10),
        "{lines:?}"
    );
    for (kind, text, place, words) in [
        (Kind::Pool, "[pools.p\nx = 1", Some((1, 9)), "not valid TOML"),
        (
            Kind::Pool,
            "[monitors.m]\n",
            Some((1, 2)),
            "`monitors` is not part of a pool",
        ),
        (Kind::Pool, "", None, "there is no pool"),
        (
            Kind::Pool,
            "[pools.a]\n[pools.b]\n",
            Some((2, 1)),
            "`b` is one too many",
        ),
        (Kind::Pool, "pools = 3", Some((1, 1)), "expected a table"),
    ] {
        let mistakes = parse_text(kind, text).unwrap_err();
        assert_eq!(mistakes[0].place, place, "{text}: {mistakes:?}");
        assert!(mistakes[0].message.contains(words), "{mistakes:?}");
    }
}

#[test]
fn fields_are_set_one_by_one() {
    let text = "[pools.p]\nminimum_origins = 2\norigin_steering = { policy = \"hash\" }\n[pools.p.origins.a]\naddress = \"10.0.0.1\"\nport = 1\n";
    let mut object = parse_text(Kind::Pool, text).unwrap();
    let assignments = [
        "minimum_origins=",
        "monitor=tcp-check",
        "origins.a.weight=0.5",
        "origins.a.port=",
        "origins.b.address = 10.0.0.2",
        "origin_steering.policy=random",
        "drain_timeout=2.5",
    ];
    set_fields(&mut object, &assignments.map(str::to_owned)).unwrap();
    assert_eq!(
        write_text(&object),
        "[pools.p]\ndrain_timeout = 2.5\nmonitor = \"tcp-check\"\norigin_steering = { policy = \"random\" }\n\n\
         [pools.p.origins.a]\naddress = \"10.0.0.1\"\nweight = 0.5\n\n[pools.p.origins.b]\naddress = \"10.0.0.2\"\n"
    );
    set_fields(&mut object, &["origins.a=".to_owned()]).unwrap();
    assert_eq!(object.origins.len(), 1);
    for wrong in ["minimum_origins", "=1", "a b=1"] {
        assert!(set_fields(&mut object, &[wrong.to_owned()]).is_err(), "{wrong}");
    }
}
