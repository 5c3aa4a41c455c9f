//! What becomes of changes that the disk refuses.

use super::*;
use crate::config::{self, HostDefaults, Kind};
use crate::objects::Action;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// An application has the listener of one that the store holds.
const FILE: &str = r#"
[applications.web]
protocol = "tcp/80"
addresses = ["203.0.113.10"]
origin_direct = ["tcp://10.0.0.1:80"]
"#;

fn application(address: &str) -> Value {
    json!({
        "protocol": "tcp/80",
        "dns": {"name": "api", "type": "ADDRESS"},
        "edge_ips": {"type": "static", "ips": [address]},
        "origin_direct": ["tcp://10.0.0.1:80"],
    })
}

/// Objects of the file, and of the store one that does not fit to it.
fn objects() -> (Objects, Config, Id) {
    let defaults = HostDefaults::of_this_machine();
    let loaded = config::parse(FILE, "lb.toml", &defaults).unwrap();
    let mut objects = Objects::new(&loaded);
    let id = Id::random(1);
    let stored = json!({"name": "api", "created": 1, "modified": 1, "body": application("203.0.113.10")});
    objects.take(&[Row {
        key: format!("applications/{id}"),
        value: stored.to_string().into_bytes(),
    }]);
    (objects, loaded.config, id)
}

fn names(config: &Config) -> Vec<&str> {
    let applications = config.applications.iter();
    applications
        .map(|application| application.name.as_str())
        .collect()
}

/// As the daemon does it, without an engine.
fn change(
    objects: &mut Objects,
    kind: Kind,
    action: Action,
) -> oneshot::Receiver<Result<Arc<Entry>, Failure>> {
    let moment = Moment { now: 2, random: 2 };
    let applied = Change { kind, action }.apply(&objects.catalog(), moment).unwrap();
    let (reply, answer) = oneshot::channel();
    objects.save(applied.catalog, applied.entry, String::new(), reply);
    answer
}

/// Whether everything since was undone; who waits is answered.
fn settle(objects: &mut Objects, committed: &Committed) -> bool {
    match objects.settle(committed) {
        Settled::Saved { done, .. } => {
            assert!(done.into_iter().all(|then| then.accept().is_none()));
            false
        }
        Settled::Undone { failed, why, .. } => {
            for then in failed {
                then.refuse(&why);
            }
            true
        }
    }
}

/// Goes back to what is on the disk.
fn undo(objects: &mut Objects) -> Config {
    let (config, file) = objects.undo().unwrap();
    objects.replace_file(file);
    config
}

fn failure(objects: &Objects, why: &str) -> Committed {
    Committed {
        epoch: objects.epoch,
        number: objects.number,
        result: Err(why.to_owned()),
    }
}

#[test]
fn what_was_mended_and_is_not_saved_is_left_out_again() {
    let (mut objects, of_file, id) = objects();
    assert_eq!(names(&objects.configuration(&of_file)), ["web"]);
    assert_eq!(objects.left_out, BTreeSet::from([id.clone()]));
    let body = application("203.0.113.11").as_object().cloned().unwrap();
    let action = Action::Replace(id.to_string(), body);
    let mut answer = change(&mut objects, Kind::Application, action);
    let mended = objects.compile(&objects.catalog()).unwrap().config;
    assert_eq!(names(&mended), ["web", "api"]);
    let news = failure(&objects, "no space");
    assert!(settle(&mut objects, &news));
    assert!(answer.try_recv().unwrap().is_err());
    assert_eq!(names(&undo(&mut objects)), ["web"]);
    assert_eq!(objects.left_out, BTreeSet::from([id.clone()]));
    let shown = objects
        .catalog()
        .find(Kind::Application, id.as_str())
        .unwrap()
        .shown();
    assert_eq!(shown["edge_ips"]["ips"][0], "203.0.113.10");
}

#[test]
fn only_the_last_failure_is_told_and_a_success_ends_it() {
    let (mut objects, of_file, _) = objects();
    let _ = objects.configuration(&of_file);
    let at_start = objects.problem().unwrap();
    let create = || Action::Create(json!({"type": "tcp"}).as_object().cloned().unwrap());
    for attempt in 0..100 {
        let _answer = change(&mut objects, Kind::Monitor, create());
        let news = failure(&objects, &format!("no space, {attempt}"));
        assert!(settle(&mut objects, &news));
        let _ = undo(&mut objects);
    }
    assert_eq!(
        objects.problem().unwrap(),
        format!("{at_start}; a change could not be saved: no space, 99")
    );
    let mut answer = change(&mut objects, Kind::Monitor, create());
    let saved = Committed {
        result: Ok(()),
        ..failure(&objects, "")
    };
    let Settled::Saved { done, again: true } = objects.settle(&saved) else {
        panic!("it is the first that is saved again")
    };
    assert!(done.into_iter().all(|then| then.accept().is_none()));
    assert!(answer.try_recv().unwrap().is_ok());
    assert_eq!(objects.problem().unwrap(), at_start);
}

#[test]
fn without_anybody_who_writes_a_change_is_undone_at_once() {
    let (mut objects, _, _) = objects();
    let create = Action::Create(json!({"type": "tcp"}).as_object().cloned().unwrap());
    let mut answer = change(&mut objects, Kind::Monitor, create);
    let news = objects.committed.try_recv().unwrap();
    assert!(settle(&mut objects, &news));
    let refusal = answer.try_recv().unwrap().unwrap_err();
    assert!(refusal.reasons[0].message.contains("restart lb"), "{refusal:?}");
}
