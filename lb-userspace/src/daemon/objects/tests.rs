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

/// A pool whose origins can be set by hand, and an application that leads to it.
const POOL: &str = r#"
[pools.eu.origins.a]
address = "10.0.0.1"
port = 80
[pools.eu.origins.b]
address = "10.0.0.2"
port = 80
[load_balancers.web]
default_pools = ["eu"]
[applications.web]
protocol = "tcp/80"
addresses = ["203.0.113.10"]
load_balancer = "web"
"#;

const BY_HAND: &str = "overrides/pools/eu/a";

fn loaded(text: &str) -> Loaded {
    config::parse(text, "lb.toml", &HostDefaults::of_this_machine()).unwrap()
}

/// The file without the origin that was set by hand.
fn without_a() -> Loaded {
    let a = "[pools.eu.origins.a]\naddress = \"10.0.0.1\"\nport = 80\n";
    assert!(POOL.contains(a));
    loaded(&POOL.replace(a, ""))
}

/// Whether what is in force gives no new flows to `a`; `None`: there is none.
fn is_disabled(objects: &Objects) -> Option<bool> {
    let config = objects.compile(&objects.catalog()).unwrap().config;
    let mut origins = config.pool("eu").unwrap().origins.iter();
    origins
        .find(|origin| origin.name == "a")
        .map(|origin| !origin.enabled)
}

fn replace(objects: &mut Objects, file: &Loaded, stored: &Stored) {
    let (_, new) = objects.with_file(file, stored).unwrap();
    objects.replace_file(new);
}

/// Waits for the disk, as the daemon does.
async fn saved(objects: &mut Objects) {
    while !objects.waiting.is_empty() {
        let news = objects.committed().await;
        assert!(!settle(objects, &news), "{news:?}");
    }
}

fn disable_a() -> Action {
    Action::Operate {
        name: "eu".to_owned(),
        origin: Some("a".to_owned()),
        operation: crate::objects::Operation::Disable,
    }
}

#[tokio::test]
async fn a_store_of_the_first_layout_keeps_what_was_set_by_hand_and_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let id = Id::random(1);
    let monitor = json!({"name": id, "created": 1, "modified": 1, "body": {"type": "tcp"}});
    let (key, stale) = (format!("monitors/{id}"), "overrides/pools/gone/x");
    let rows = [
        (BY_HAND, r#"{"enabled":false,"since":7}"#),
        (stale, r#"{"enabled":false,"since":7}"#),
        (key.as_str(), &monitor.to_string()),
    ];
    store::write_first_layout(folder.path(), &rows);
    let event = crate::wire::Event::new(1, SystemTime::now(), "started", "before".to_owned());
    {
        let (history, _, _) = store::History::open(folder.path()).unwrap();
        let writer = store::HistoryWriter::start(history, lb_core::model::History::default(), |_| {});
        writer
            .write(vec![store::HistoryChange::Event(Arc::new(event))])
            .unwrap();
        writer.flush().await.unwrap();
    }

    let mut objects = Objects::new(&loaded(POOL));
    objects.open(folder.path());
    assert_eq!(objects.problem(), None);
    assert_eq!(is_disabled(&objects), Some(true));
    assert!(objects.catalog().get(Kind::Monitor, &id).is_some());
    assert_eq!(objects.records.revisions.number(), 0);
    // The first revision has it, and what is for nothing goes with it.
    let (mut changes, undo) = objects.take_start();
    assert_eq!(
        (changes.len(), changes[0].key.as_str(), &changes[0].value),
        (1, stale, &None)
    );
    changes.extend(objects.push_revision(Cause::Start, String::new(), undo));
    objects.commit(changes, Then::Nothing);
    saved(&mut objects).await;
    objects.close().await;
    let mut objects = Objects::new(&loaded(POOL));
    objects.open(folder.path());
    assert_eq!(
        (is_disabled(&objects), objects.records.revisions.number()),
        (Some(true), 1)
    );
    assert!(objects.take_start().0.is_empty());
    let (history, restored, problem) = store::History::open(folder.path()).unwrap();
    assert_eq!((restored.next_event > 1, problem), (true, None));
    drop(history);
    objects.close().await;
}

#[tokio::test]
async fn a_revision_has_what_was_set_by_hand_at_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut objects = Objects::new(&loaded(POOL));
    objects.open(folder.path());
    let first = objects.push_revision(Cause::Start, String::new(), Vec::new());
    objects.commit(first, Then::Nothing);
    saved(&mut objects).await;
    let _answer = change(&mut objects, Kind::Pool, disable_a());
    saved(&mut objects).await;
    // Done again, it is no change, and no revision.
    let _answer = change(&mut objects, Kind::Pool, disable_a());
    saved(&mut objects).await;
    assert_eq!(objects.records.revisions.number(), 2);
    // The file loses the origin.
    let former = objects.catalog();
    replace(&mut objects, &without_a(), &former.stored());
    let changes = objects.revise(&former, Cause::File, String::new());
    assert!(
        changes
            .iter()
            .any(|change| change.key == BY_HAND && change.value.is_none())
    );
    objects.commit(changes, Then::Nothing);
    saved(&mut objects).await;
    assert_eq!(is_disabled(&objects), None);
    for (revision, disabled) in [(1, Some(false)), (2, Some(true))] {
        let rows = objects.records.revisions.objects_at(revision, &objects.rows());
        let (stored, flaws) = Stored::read(&rows.unwrap());
        assert!(flaws.is_empty());
        let file = FilePart::new(&loaded(POOL));
        let compiled = file
            .compile(&file.with(&stored), &BTreeSet::new())
            .unwrap()
            .config;
        let a = compiled.pool("eu").unwrap().origins.first().cloned();
        assert_eq!(a.map(|a| !a.enabled), disabled, "{revision}");
    }
    objects.close().await;
}

#[tokio::test]
async fn what_an_unconfirmed_file_has_taken_away_is_back_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let mut objects = Objects::new(&loaded(POOL));
    objects.open(folder.path());
    let _answer = change(&mut objects, Kind::Pool, disable_a());
    saved(&mut objects).await;
    let former = objects.catalog();
    replace(&mut objects, &without_a(), &former.stored());
    let returning = former.overrides().without(objects.catalog().overrides());
    let mut changes = objects.revise(&former, Cause::Apply, String::new());
    let unfinished = Unfinished::Confirmation {
        revision: 2,
        returning: returning.rows().collect(),
    };
    changes.push(unfinished.noted());
    objects.commit(changes, Then::Nothing);
    saved(&mut objects).await;
    objects.close().await;
    // The configuration file was not touched.
    let mut objects = Objects::new(&loaded(POOL));
    objects.open(folder.path());
    assert_eq!(is_disabled(&objects), Some(true));
    let (changes, undo) = objects.take_start();
    assert_eq!(changes.len(), 1);
    assert_eq!((undo[0].key.as_str(), &undo[0].value), (BY_HAND, &None));
    objects.close().await;
    // It was, and the daemon ended before it could say so.
    let mut objects = Objects::new(&without_a());
    objects.open(folder.path());
    assert_eq!(is_disabled(&objects), None);
    assert!(objects.take_start().0.is_empty());
    objects.close().await;
}

#[test]
fn a_way_back_that_cannot_be_saved_stays() {
    let mut objects = Objects::new(&loaded(POOL));
    // What the disk has: the unconfirmed file.
    let former = objects.catalog();
    let (first, by_hand) = (Rc::clone(&objects.file), {
        let moment = Moment { now: 2, random: 2 };
        let change = Change {
            kind: Kind::Pool,
            action: disable_a(),
        };
        change.apply(&former, moment).unwrap().catalog.stored()
    });
    replace(&mut objects, &without_a(), &by_hand);
    objects.commit(Vec::new(), Then::Nothing);
    let done = Committed {
        result: Ok(()),
        ..failure(&objects, "")
    };
    assert!(!settle(&mut objects, &done));
    // Back, and that is refused.
    let catalog = first.with(&by_hand);
    objects.replace_file(NewFile {
        file: Rc::clone(&first),
        catalog,
        left_out: BTreeSet::new(),
    });
    objects.is_on_disk(&first, &by_hand.overrides);
    objects.commit(Vec::new(), Then::Nothing);
    let news = failure(&objects, "no space");
    assert!(settle(&mut objects, &news));
    undo(&mut objects);
    assert_eq!(objects.file.source.text(), POOL);
    assert_eq!(is_disabled(&objects), Some(true));
}
