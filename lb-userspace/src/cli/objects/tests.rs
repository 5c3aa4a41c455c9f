//! The command line of objects, as far as no daemon is needed.

use super::create::Fields;
use super::edit::{GivenUp, edit};
use super::list::{table, whole};
use super::remote::Refused;
use super::*;
use crate::cli::Exit;
use crate::config::Declaration;
use crate::objects::write_text;
use crate::wire::Problem;
use clap::Parser;
use serde_json::{Map, json};
use std::cell::RefCell;
use std::collections::HashMap;

#[derive(Parser)]
struct Flags<C: Args> {
    #[command(flatten)]
    fields: C,
}

/// What flags come to.
fn written<C: Args + Fields>(line: &str) -> Result<String, String> {
    let words = line.split(' ').map(|word| word.replace('_', " "));
    let flags = Flags::<C>::try_parse_from(std::iter::once("lb".to_owned()).chain(words)).unwrap();
    let mut object = Declaration {
        kind: C::KIND,
        name: "x".to_owned(),
        line: 1,
        fields: Map::new(),
        origins: Vec::new(),
    };
    flags.fields.fill(&mut object)?;
    Ok(write_text(&object))
}

#[test]
fn flags_are_written_in_the_files_vocabulary() {
    assert_eq!(
        written::<NewPool>("--monitor tcp --minimum-origins 2 --origin name=a,address=10.0.0.1,port=80,weight=0.5 --origin name=7,address=::1 --disabled").unwrap(),
        "[pools.x]\nenabled = false\nminimum_origins = 2\nmonitor = \"tcp\"\n\n[pools.x.origins.a]\naddress = \"10.0.0.1\"\n\
         port = 80\nweight = 0.5\n\n[pools.x.origins.7]\naddress = \"::1\"\n"
    );
    assert_eq!(
        written::<NewMonitor>(
            "--type http --interval 0.5 --header Host:_a --header Host:_b --follow-redirects"
        )
        .unwrap(),
        "[monitors.x]\nfollow_redirects = true\nheader = { Host = [\"a\", \"b\"] }\ninterval = 0.5\ntype = \"http\"\n"
    );
    assert_eq!(
        written::<NewLoadBalancer>(
            "--pool b --pool a --fallback-pool c --steering-policy random --pool-weight a=0.5"
        )
        .unwrap(),
        "[load_balancers.x]\ndefault_pools = [\"b\", \"a\"]\nfallback_pool = \"c\"\n\
         random_steering = { pool_weights = { a = 0.5 } }\nsteering_policy = \"random\"\n"
    );
    assert_eq!(
        written::<NewGroup>(
            "--member a,must_be_healthy"
                .replace("must_be_healthy", "disabled")
                .as_str()
        )
        .unwrap(),
        "[monitor_groups.x]\nmembers = [{ enabled = false, monitor = \"a\" }]\n"
    );
    assert_eq!(
        written::<NewApplication>("--protocol tcp/80 --address 192.0.2.1 --load-balancer web").unwrap(),
        "[applications.x]\naddresses = [\"192.0.2.1\"]\nload_balancer = \"web\"\nprotocol = \"tcp/80\"\n"
    );
    for (wrong, words) in [
        ("--origin a", "not of the form FIELD=VALUE"),
        ("--origin name=a", "`address` is missing"),
        ("--origin name=a,name=b,address=1", "`name` is given twice"),
    ] {
        assert!(written::<NewPool>(wrong).unwrap_err().contains(words), "{wrong}");
    }
    assert!(
        written::<NewLoadBalancer>("--pool-weight a")
            .unwrap_err()
            .contains("POOL=WEIGHT")
    );
    assert!(
        written::<NewGroup>("--member a,often")
            .unwrap_err()
            .contains("not one of")
    );
}

const ORIGINAL: &str = "[pools.p]\nminimum_origins = 1\n";
const HEAD: &str = "# The pool `p`.\n# More words.\n";

fn invalid(line: Option<usize>, message: &str) -> Refused {
    let problem = Problem {
        message: message.to_owned(),
        field: String::new(),
        file: String::new(),
        line,
        column: line,
        help: None,
    };
    Refused::Invalid {
        message: "the pool is invalid".to_owned(),
        problems: vec![problem],
    }
}

/// Runs the loop with an editor that saves these texts one after the other; what it was shown comes back.
fn with_editor(
    saves: &[&str],
    apply: impl FnMut(&str) -> Result<String, Refused>,
) -> (Result<Option<String>, GivenUp>, Vec<String>) {
    let (shown, mut saves) = (RefCell::new(Vec::new()), saves.iter());
    let open = |text: &str| {
        shown.borrow_mut().push(text.to_owned());
        match saves.next() {
            // As an editor that changes what it was given.
            Some(edit) => Ok(match edit.split_once("=>") {
                Some((from, to)) => text.replace(from, to),
                None => (*edit).to_owned(),
            }),
            None => Err(Failure::new(Exit::Failed, "the editor was opened too often")),
        }
    };
    let result = edit(HEAD, ORIGINAL, open, apply);
    (result, shown.into_inner())
}

#[test]
fn an_unchanged_or_an_emptied_text_changes_nothing() {
    for save in ["", "\n# only a comment", "# a comment\n\n", "x=>y", "# The=># A"] {
        let (result, shown) = with_editor(&[save], |text| panic!("{save:?} was applied: {text}"));
        assert_eq!(result.unwrap(), None, "{save:?}");
        assert_eq!(shown, [format!("{HEAD}\n{ORIGINAL}")]);
    }
}

#[test]
fn what_is_wrong_stands_above_the_text_until_it_is_right() {
    let mut tries = Vec::new();
    let (result, shown) = with_editor(&["= 1=>= -1", "= -1=>= 2"], |text| {
        tries.push(text.to_owned());
        match text.contains("-1") {
            true => Err(invalid(Some(2), "minimum_origins: -1 is outside 0 to 7")),
            false => Ok(text.to_owned()),
        }
    });
    assert_eq!(
        result.unwrap().as_deref(),
        Some("[pools.p]\nminimum_origins = 2\n")
    );
    assert_eq!(tries[0], "[pools.p]\nminimum_origins = -1\n", "nothing is lost");
    let second = format!(
        "{HEAD}# ERROR: the pool is invalid\n# ERROR: line 7: minimum_origins: -1 is outside 0 to 7\n\n[pools.p]\nminimum_origins = -1\n"
    );
    assert_eq!(shown[1], second);
    assert_eq!(
        shown[1].lines().nth(6),
        Some("minimum_origins = -1"),
        "the line that is told"
    );
}

#[test]
fn who_gives_up_keeps_the_text() {
    // Saved again as it was refused.
    let (result, shown) = with_editor(&["= 1=>= -1", "x=>y"], |_| Err(invalid(None, "why")));
    let GivenUp { failure, text } = result.unwrap_err();
    assert_eq!((failure.exit, shown.len()), (Exit::Configuration, 2));
    assert!(failure.message.contains("why"), "{failure}");
    assert_eq!(text.as_deref(), Some("[pools.p]\nminimum_origins = -1\n"));
    // Emptied after a refusal.
    let (result, _) = with_editor(&["= 1=>= -1", ""], |_| Err(invalid(None, "why")));
    assert_eq!(result.unwrap(), None);
    // Somebody else was faster.
    let changed = || Refused::Changed(Failure::new(Exit::Conflict, "changed meanwhile"));
    let (result, _) = with_editor(&["= 1=>= 2"], |_| Err(changed()));
    let GivenUp { failure, text } = result.unwrap_err();
    assert_eq!(failure.exit, Exit::Conflict);
    assert_eq!(text.as_deref(), Some("[pools.p]\nminimum_origins = 2\n"));
    // An editor that fails.
    let GivenUp { failure, text } = with_editor(&[], |_| Ok(String::new())).0.unwrap_err();
    assert_eq!((failure.exit, text), (Exit::Failed, None));
}

fn pool() -> Object {
    serde_json::from_value(json!({
        "id": "0123456789abcdef0123456789abcdef", "name": "eu", "etag": "1",
        "declared": {"file": "/etc/lb/lb.toml", "line": 12},
        "overridden": {
            "": {"enabled": false, "since": "2025-01-01T00:00:00Z"},
            "a": {"weight": 0.5, "since": "2025-01-02T00:00:00Z"}
        },
        "object": {"name": "eu", "enabled": false, "monitor": "m1", "monitor_group": "",
                   "origins": [{"name": "a", "address": "10.0.0.1", "weight": 0.5, "enabled": true}]},
        "toml": "[pools.eu]\nmonitor = \"tcp\"\n",
        "referrers": ["load balancer `web`"]
    }))
    .unwrap()
}

#[test]
fn objects_are_shown_with_who_declares_them_and_what_was_set_by_hand() {
    let names: HashMap<String, String> = [("m1".to_owned(), "tcp".to_owned())].into();
    assert_eq!(
        table(Kind::Pool, &[pool()], &names, None).render(false),
        "POOL  HEALTH  ORIGINS  MONITOR  SOURCE\neu    -       1        tcp      lb.toml:12, disabled by hand\n"
    );
    assert_eq!(
        whole(Kind::Pool, &pool()),
        "# pool `eu`, declared in /etc/lb/lb.toml:12\n# id 0123456789abcdef0123456789abcdef\n\
         # it is disabled by hand since 2025-01-01T00:00:00Z\n# origin `a` is weight 0.5 by hand since 2025-01-02T00:00:00Z\n\
         # used by load balancer `web`\n[pools.eu]\nmonitor = \"tcp\"\n"
    );
    assert_eq!(
        state(&pool(), ""),
        "disabled by hand, which /etc/lb/lb.toml:12 does not say (`reset` forgets it)"
    );
    let application: Object = serde_json::from_value(json!({
        "id": "i", "name": "web", "etag": "1",
        "object": {"protocol": "tcp/80", "edge_ips": {"type": "dynamic"}, "origin_dns": {"name": "lb"}}
    }))
    .unwrap();
    assert_eq!(
        table(Kind::Application, &[application], &names, None).render(false),
        "APPLICATION  STATE    PROTOCOL  ADDRESSES   LEADS TO  SOURCE\nweb          enabled  tcp/80    the node's  lb        api\n"
    );
}

#[test]
fn several_names_are_all_tried_unless_the_daemon_is_the_problem() {
    let run = |names: &[&'static str]| {
        let mut tried = Vec::new();
        let outcome = each(names, |name| {
            tried.push(*name);
            match *name {
                "missing" => Err(Failure::new(Exit::NotFound, "there is no `missing`")),
                "used" => Err(Failure::new(Exit::Conflict, "`used` is needed")),
                "down" => Err(Failure::new(Exit::Unreachable, "nobody answers")),
                _ => Ok(()),
            }
        });
        (tried, outcome)
    };
    assert_eq!(run(&["a", "b"]), (vec!["a", "b"], Ok(())));
    let both = Failure::new(Exit::NotFound, "there is no `missing`\n`used` is needed");
    assert_eq!(
        run(&["a", "missing", "used", "b"]),
        (vec!["a", "missing", "used", "b"], Err(both))
    );
    let down = Failure::new(Exit::Unreachable, "nobody answers");
    assert_eq!(run(&["a", "down", "b"]), (vec!["a", "down"], Err(down)));
}
