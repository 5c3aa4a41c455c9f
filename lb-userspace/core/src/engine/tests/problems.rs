//! When problems of pools and load balancers begin and end, as the history sees it.

use super::names::{NAME, named};
use super::steering::{A, B};
use super::world::*;
use crate::engine::LookupFailure;
use crate::history::{Health, Standings, Subject};
use crate::model::*;

/// Follows the views of a world.
struct History {
    standings: Standings,
    next: u64,
    seen: usize,
}

impl History {
    fn new() -> Self {
        Self {
            standings: Standings::default(),
            next: 1,
            seen: 0,
        }
    }

    /// What pools and load balancers have gone through since this was asked last: `NAME HEALTH`, and whether a problem
    /// begins (`!`) or ends (`.`) with it.
    fn told(&mut self, world: &World) -> Vec<String> {
        use crate::history::Problem::{Began, Ended, GoesOn};
        let mut told = Vec::new();
        for view in &world.views[self.seen..] {
            let (changes, _) = self.standings.follow(view, &mut self.next);
            for change in changes {
                if matches!(change.subject, Subject::Origin { .. }) {
                    continue;
                }
                let mark = match change.problem {
                    Some(Began(_)) => "!",
                    Some(Ended(_)) => ".",
                    Some(GoesOn(_)) | None => "",
                };
                let health = change.now.map_or("-", Health::name);
                told.push(format!("{} {health}{mark}", change.subject.name()));
            }
        }
        self.seen = world.views.len();
        told
    }

    fn health(&self, subject: &Subject) -> Option<Health> {
        self.standings.get(subject).map(|known| known.health)
    }
}

fn without_monitor(pool: Pool) -> Pool {
    Pool {
        monitor: None,
        ..pool
    }
}

#[test]
fn a_name_that_is_found_ends_the_problem_of_a_pool_without_a_monitor() {
    let mut world = World::new(environment());
    world.configure(web(vec![without_monitor(named(&[]))], None));
    world.fail_to_resolve(NAME, LookupFailure::UnknownHost);
    world.run(1);
    let mut history = History::new();
    assert_eq!(history.told(&world), ["first critical!", "web critical!"]);
    world.resolve(NAME, &[A]);
    world.run(1);
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(history.told(&world), ["first unknown.", "web unknown."]);
    for subject in [Subject::Pool("first".into()), Subject::LoadBalancer("web".into())] {
        assert_eq!(history.health(&subject), Some(Health::Unknown));
    }
}

#[test]
fn an_enabled_pool_without_a_monitor_ends_the_load_balancers_problem() {
    let with = |enabled| {
        let pool = unmonitored("first", &[A]);
        web(vec![Pool { enabled, ..pool }], None)
    };
    let mut world = World::settled(with(false));
    let mut history = History::new();
    assert_eq!(history.told(&world), ["web critical!"]);
    world.configure(with(true));
    world.run(1);
    assert_eq!(world.serving(VIP), [A]);
    assert_eq!(history.told(&world), ["first unknown", "web unknown."]);
}

#[test]
fn a_monitor_that_is_taken_away_ends_the_problem_and_another_one_does_not() {
    let mut world = World::settled(web(vec![pool("first", &[A])], None));
    let mut history = History::new();
    world.kill(A);
    let told = history.told(&world);
    assert_eq!(told.last().map(String::as_str), Some("web critical!"), "{told:?}");
    assert!(told.contains(&"first critical!".to_owned()), "{told:?}");
    // Another monitor has nothing to say yet.
    let mut other = web(vec![pool("first", &[A])], None);
    other.monitors.push(monitor("other"));
    other.pools[0].monitor = Some("other".into());
    world.silent = true;
    world.configure(other);
    world.run(1);
    assert_eq!(history.told(&world), [""; 0]);
    world.configure(web(vec![without_monitor(pool("first", &[A]))], None));
    world.run(1);
    assert_eq!(history.told(&world), ["first unknown.", "web unknown."]);
}

#[test]
fn a_load_balancer_that_serves_nobody_or_falls_back_is_critical() {
    // All origins have weight 0: connections are refused.
    let mut config = web(vec![unmonitored("first", &[A])], None);
    config.pools[0].origins[0].weight = Weight::ZERO;
    let world = World::settled(config);
    let mut history = History::new();
    assert_eq!(world.serving(VIP), Vec::<String>::new());
    assert_eq!(history.told(&world), ["web critical!"]);
    // All pools have weight 0, healthy or of unknown health: the fallback pool takes everything.
    for first in [pool("first", &[A]), unmonitored("first", &[A])] {
        let mut config = web(vec![first, unmonitored("sorry", &[B])], Some("sorry"));
        config.load_balancers[0].steering_policy = SteeringPolicy::Random;
        config.load_balancers[0].random_steering = weights(&[], 0);
        let mut world = World::settled(config.clone());
        let mut history = History::new();
        assert_eq!(world.serving(VIP), [B]);
        assert!(world.view().load_balancers[0].on_fallback);
        let told = history.told(&world);
        assert!(told.contains(&"web critical!".to_owned()), "{told:?}");
        config.load_balancers[0].random_steering = weights(&[], 50);
        world.configure(config);
        world.run(1);
        assert_eq!(world.serving(VIP), [A]);
        let told = history.told(&world);
        assert!(told.last().is_some_and(|told| told.ends_with('.')), "{told:?}");
    }
}

#[test]
fn a_restart_without_results_is_no_change() {
    let config = web(vec![pool("first", &[A]), pool("second", &[B])], None);
    let mut world = World::settled(config.clone());
    let mut history = History::new();
    world.kill(A);
    world.kill(B);
    assert!(history.told(&world).contains(&"web critical!".to_owned()));
    let mut world = world.restart(crate::engine::Kept::default());
    history.seen = 0;
    world.silent = true;
    world.configure(config);
    world.run(1);
    assert_eq!(history.told(&world), [""; 0]);
    assert_eq!(
        history.health(&Subject::Pool("first".into())),
        Some(Health::Critical)
    );
}
