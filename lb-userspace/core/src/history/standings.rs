//! What is known of everybody's health, and what a new snapshot changes about it.

use super::{Health, Subject};
use crate::health::FailureReason;
use crate::view::{LoadBalancerView, OriginView, PoolView, View};
use core::net::IpAddr;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of one subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    pub health: Health,
    /// Number of the event with which a problem began that has not ended.
    pub problem: Option<u64>,
}

/// A change of health: one event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Of the event.
    pub sequence: u64,
    pub subject: Subject,
    /// `None`: it is new.
    pub was: Option<Health>,
    /// `None`: it was removed.
    pub now: Option<Health>,
    pub problem: Option<Problem>,
    /// Why an origin is unhealthy.
    pub reason: Option<FailureReason>,
    /// Of an origin.
    pub address: Option<IpAddr>,
    /// Of a pool: how many origins are healthy, and how many must be.
    pub origins: Option<(u32, u32)>,
}

/// What a change means for a problem, which is named by the number of the event with which it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    Began(u64),
    GoesOn(u64),
    /// It serves again, or was disabled or removed.
    Ended(u64),
}

impl Problem {
    /// The number of the event with which it began.
    #[must_use]
    pub const fn id(self) -> u64 {
        match self {
            Self::Began(id) | Self::GoesOn(id) | Self::Ended(id) => id,
        }
    }
}

/// What is known now; `None`: nothing any more. Beside the changes these are subjects that are new and well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateChange {
    pub subject: Subject,
    pub known: Option<Known>,
}

/// Everybody's health.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    pools: BTreeMap<String, KnownPool>,
    load_balancers: BTreeMap<String, Known>,
}

#[derive(Clone, Debug, Default)]
struct KnownPool {
    known: Option<Known>,
    origins: BTreeMap<String, Known>,
}

/// What a snapshot changes, as it is collected.
#[derive(Default)]
struct Collected {
    changes: Vec<Change>,
    states: Vec<StateChange>,
}

/// What a snapshot says of a subject.
struct Seen {
    health: Health,
    /// Unknown, and soon to be known.
    awaits_results: bool,
    reason: Option<FailureReason>,
    address: Option<IpAddr>,
    origins: Option<(u32, u32)>,
}

impl Seen {
    fn nobody() -> Self {
        Self {
            health: Health::Unknown,
            awaits_results: false,
            reason: None,
            address: None,
            origins: None,
        }
    }

    fn pool(view: &PoolView) -> Self {
        Self {
            health: view.health.into(),
            awaits_results: view.awaits_results,
            origins: Some((view.healthy_origins, view.minimum_origins)),
            ..Self::nobody()
        }
    }

    fn origin(view: &OriginView) -> Self {
        let health = Health::from(view.health);
        Self {
            health,
            // Without a monitor it is healthy.
            awaits_results: health == Health::Unknown,
            reason: view
                .failure_reason
                .clone()
                .filter(|_| health == Health::Unhealthy),
            address: view.address,
            ..Self::nobody()
        }
    }

    fn load_balancer(view: &LoadBalancerView) -> Self {
        Self {
            health: view.health.into(),
            awaits_results: view.awaits_results,
            ..Self::nobody()
        }
    }
}

impl Standings {
    /// Restores what was known before.
    pub fn restore(&mut self, subject: Subject, known: Known) {
        match subject {
            Subject::Pool(name) => self.pools.entry(name).or_default().known = Some(known),
            Subject::Origin { pool, origin } => {
                self.pools.entry(pool).or_default().origins.insert(origin, known);
            }
            Subject::LoadBalancer(name) => drop(self.load_balancers.insert(name, known)),
        }
    }

    /// What is known of a subject.
    #[must_use]
    pub fn get(&self, subject: &Subject) -> Option<Known> {
        match subject {
            Subject::Pool(name) => self.pools.get(name)?.known,
            Subject::Origin { pool, origin } => self.pools.get(pool)?.origins.get(origin).copied(),
            Subject::LoadBalancer(name) => self.load_balancers.get(name).copied(),
        }
    }

    /// Takes in a snapshot. The changes are numbered from `next_event` on, causes before effects: origins, their pool, and
    /// after all pools the load balancers.
    pub fn follow(&mut self, view: &View, next_event: &mut u64) -> (Vec<Change>, Vec<StateChange>) {
        let mut collected = Collected::default();
        for pool in &view.pools {
            // Looked up first: most of the time nothing is new.
            if !self.pools.contains_key(&pool.name) {
                self.pools.insert(pool.name.clone(), KnownPool::default());
            }
            let Some(known) = self.pools.get_mut(&pool.name) else {
                continue;
            };
            for origin in &pool.origins {
                let label = origin.label();
                let subject = || of_origin(&pool.name, &label);
                let former = known.origins.get(&*label).copied();
                if let Some(now) = collected.see(former, subject, || Seen::origin(origin), next_event) {
                    known.origins.insert(label.into_owned(), now);
                }
            }
            if known.origins.len() > pool.origins.len() {
                let present: BTreeSet<Cow<'_, str>> = pool.origins.iter().map(OriginView::label).collect();
                known.origins.retain(|origin, former| {
                    let stays = present.contains(origin.as_str());
                    if !stays {
                        collected.remove(of_origin(&pool.name, origin), *former, next_event);
                    }
                    stays
                });
            }
            let subject = || Subject::Pool(pool.name.clone());
            if let Some(now) = collected.see(known.known, subject, || Seen::pool(pool), next_event) {
                known.known = Some(now);
            }
        }
        if self.pools.len() > view.pools.len() {
            let present: BTreeSet<&str> = view.pools.iter().map(|pool| pool.name.as_str()).collect();
            self.pools.retain(|pool, known| {
                let stays = present.contains(pool.as_str());
                if !stays {
                    for (origin, former) in &known.origins {
                        collected.remove(of_origin(pool, origin), *former, next_event);
                    }
                    if let Some(former) = known.known {
                        collected.remove(Subject::Pool(pool.clone()), former, next_event);
                    }
                }
                stays
            });
        }
        for balancer in &view.load_balancers {
            let former = self.load_balancers.get(&balancer.name).copied();
            let subject = || Subject::LoadBalancer(balancer.name.clone());
            let seen = || Seen::load_balancer(balancer);
            if let Some(now) = collected.see(former, subject, seen, next_event) {
                self.load_balancers.insert(balancer.name.clone(), now);
            }
        }
        if self.load_balancers.len() > view.load_balancers.len() {
            let balancers = view.load_balancers.iter();
            let present: BTreeSet<&str> = balancers.map(|balancer| balancer.name.as_str()).collect();
            self.load_balancers.retain(|name, former| {
                let stays = present.contains(name.as_str());
                if !stays {
                    collected.remove(Subject::LoadBalancer(name.clone()), *former, next_event);
                }
                stays
            });
        }
        (collected.changes, collected.states)
    }
}

fn of_origin(pool: &str, origin: &str) -> Subject {
    Subject::Origin {
        pool: pool.to_owned(),
        origin: origin.to_owned(),
    }
}

impl Collected {
    /// What is known of a subject from now on, if that is something else than before.
    fn see(
        &mut self,
        former: Option<Known>,
        subject: impl FnOnce() -> Subject,
        seen: impl FnOnce() -> Seen,
        next_event: &mut u64,
    ) -> Option<Known> {
        let seen = seen();
        let health = seen.health;
        let is_news = match former {
            None => true,
            Some(former) => !seen.awaits_results && health != former.health,
        };
        if !is_news {
            return None;
        }
        let subject = subject();
        // Somebody new who is well is no news for anybody.
        let is_event = former.is_some() || health.is_problem();
        let problem = match former.and_then(|former| former.problem) {
            Some(id) if health.is_problem() => Some(Problem::GoesOn(id)),
            Some(id) => Some(Problem::Ended(id)),
            None => health.is_problem().then_some(Problem::Began(*next_event)),
        };
        let known = Known {
            health,
            problem: problem
                .filter(|problem| !matches!(problem, Problem::Ended(_)))
                .map(Problem::id),
        };
        if is_event {
            self.changes.push(Change {
                sequence: take(next_event),
                subject: subject.clone(),
                was: former.map(|former| former.health),
                now: Some(health),
                problem,
                reason: seen.reason,
                address: seen.address,
                origins: seen.origins,
            });
        }
        self.states.push(StateChange {
            subject,
            known: Some(known),
        });
        Some(known)
    }

    fn remove(&mut self, subject: Subject, former: Known, next_event: &mut u64) {
        self.changes.push(Change {
            sequence: take(next_event),
            subject: subject.clone(),
            was: Some(former.health),
            now: None,
            problem: former.problem.map(Problem::Ended),
            reason: None,
            address: None,
            origins: None,
        });
        self.states.push(StateChange { subject, known: None });
    }
}

fn take(next: &mut u64) -> u64 {
    let number = *next;
    *next += 1;
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{GroupHealth, OriginHealth};
    use crate::model::{Forwarding, Weight};
    use lb_common::abi::{OriginId, PoolId};

    fn origin(name: &str, health: OriginHealth) -> OriginView {
        OriginView {
            name: name.to_owned(),
            id: OriginId(1),
            address: Some(IpAddr::from([10, 0, 0, 1])),
            host_name: None,
            port: None,
            forwarding: Forwarding::Nat,
            enabled: true,
            health,
            failure_reason: (health == OriginHealth::Unhealthy).then_some(FailureReason::TcpTimeout),
            monitors: Vec::new(),
            path_problem: None,
            weight: Weight::ONE,
            share: 1.0,
            rtt: None,
            response_code: None,
            draining: false,
            drain_deadline: None,
        }
    }

    /// A pool: its name, its health, its origins.
    type Given<'a> = (&'a str, GroupHealth, &'a [(&'a str, OriginHealth)]);

    fn view(pools: &[Given<'_>]) -> View {
        View {
            pools: pools
                .iter()
                .map(|(name, health, origins)| PoolView {
                    name: (*name).to_owned(),
                    id: PoolId::default(),
                    health: *health,
                    awaits_results: *health == GroupHealth::Unknown,
                    usable: false,
                    healthy_origins: 0,
                    minimum_origins: 1,
                    origins: origins
                        .iter()
                        .map(|(name, health)| origin(name, *health))
                        .collect(),
                })
                .collect(),
            ..View::default()
        }
    }

    /// Changes as `NUMBER SUBJECT WAS>NOW PROBLEM`.
    fn told(changes: &[Change]) -> Vec<String> {
        let word = |health: Option<Health>| health.map_or("-", Health::name);
        changes
            .iter()
            .map(|change| {
                let problem = change
                    .problem
                    .map_or(String::new(), |problem| format!(" {problem:?}"));
                format!(
                    "{} {} {}>{}{problem}",
                    change.sequence,
                    change.subject.name(),
                    word(change.was),
                    word(change.now)
                )
            })
            .collect()
    }

    #[test]
    fn a_problem_begins_goes_on_over_a_restart_and_ends_under_one_number() {
        use GroupHealth as G;
        use OriginHealth as O;
        let mut next = 7;
        let mut standings = Standings::default();
        let mut step = |standings: &mut Standings, pool, a, b| {
            let view = view(&[("eu", pool, &[("a", a), ("b", b)])]);
            let (changes, states) = standings.follow(&view, &mut next);
            (told(&changes), states)
        };
        let (changes, states) = step(&mut standings, G::Unknown, O::Unknown, O::Unknown);
        assert_eq!(
            (changes.len(), states.len()),
            (0, 3),
            "new, and nobody knows more"
        );
        let (changes, _) = step(&mut standings, G::Degraded, O::Healthy, O::Unhealthy);
        let expected = [
            "7 eu/a unknown>healthy",
            "8 eu/b unknown>unhealthy Began(8)",
            "9 eu unknown>degraded",
        ];
        assert_eq!(changes, expected);
        let (changes, states) = step(&mut standings, G::Critical, O::Unhealthy, O::Unhealthy);
        let expected = [
            "10 eu/a healthy>unhealthy Began(10)",
            "11 eu degraded>critical Began(11)",
        ];
        assert_eq!(changes, expected);
        // A restart knows what was written.
        let mut again = Standings::default();
        for state in &states {
            again.restore(state.subject.clone(), state.known.unwrap());
        }
        let b = Subject::Origin {
            pool: "eu".into(),
            origin: "b".into(),
        };
        again.restore(b.clone(), standings.get(&b).unwrap());
        let (changes, _) = step(&mut again, G::Unknown, O::Unknown, O::Unknown);
        assert_eq!(changes, [""; 0], "not to know is no news");
        let (changes, _) = step(&mut again, G::Degraded, O::Healthy, O::Unhealthy);
        let expected = [
            "12 eu/a unhealthy>healthy Ended(10)",
            "13 eu critical>degraded Ended(11)",
        ];
        assert_eq!(changes, expected);
        let (changes, _) = step(&mut again, G::Healthy, O::Healthy, O::Disabled);
        assert_eq!(
            changes,
            ["14 eu/b unhealthy>disabled Ended(8)", "15 eu degraded>healthy"]
        );
        assert_eq!(again.get(&b).unwrap().problem, None);
    }

    #[test]
    fn what_is_removed_ends_its_problem_and_what_is_new_and_well_is_no_event() {
        use GroupHealth as G;
        use OriginHealth as O;
        let mut next = 1;
        let mut standings = Standings::default();
        let all = view(&[
            ("eu", G::Healthy, &[("a", O::Healthy), ("b", O::Healthy)]),
            ("us", G::Critical, &[("a", O::Disabled)]),
        ]);
        let (changes, states) = standings.follow(&all, &mut next);
        assert_eq!(told(&changes), ["1 us ->critical Began(1)"]);
        assert_eq!(states.len(), 5);
        let (changes, states) = standings.follow(&all, &mut next);
        assert!(changes.is_empty() && states.is_empty());
        let (changes, states) =
            standings.follow(&view(&[("eu", G::Healthy, &[("b", O::Healthy)])]), &mut next);
        let expected = [
            "2 eu/a healthy>-",
            "3 us/a disabled>-",
            "4 us critical>- Ended(1)",
        ];
        assert_eq!(told(&changes), expected);
        assert!(states.iter().all(|state| state.known.is_none()));
        assert_eq!(standings.get(&Subject::Pool("us".into())), None);
    }
}
