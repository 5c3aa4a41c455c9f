//! What several monitors make of one origin.

use crate::health::OriginHealth;

/// What a member of a monitor group has to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// `monitoring_only`: its results are shown and reported, and change nothing.
    Observer,
    Voter,
    /// `must_be_healthy`: when it fails the origin is unhealthy, whatever the others say.
    Veto,
}

impl Role {
    /// Whether the member's results count.
    #[must_use]
    pub fn counts(self) -> bool {
        self != Self::Observer
    }
}

/// The health of an origin by the results of its monitors: a failing veto makes it unhealthy, and so do more than half
/// of the voters. It is unknown as long as results that are still to come can decide either way, or a veto has not spoken.
/// Without anybody whose results count it is healthy: as without a monitor.
#[must_use]
pub fn verdict(results: impl IntoIterator<Item = (Role, OriginHealth)>) -> OriginHealth {
    let (mut voters, mut against, mut open) = (0u32, 0u32, 0u32);
    let (mut vetoed, mut awaited) = (false, false);
    for (role, health) in results.into_iter().filter(|(role, _)| role.counts()) {
        voters += 1;
        match health {
            OriginHealth::Unhealthy => {
                against += 1;
                vetoed |= role == Role::Veto;
            }
            OriginHealth::Unknown => {
                open += 1;
                awaited |= role == Role::Veto;
            }
            OriginHealth::Healthy | OriginHealth::Disabled => {}
        }
    }
    if vetoed || against * 2 > voters {
        OriginHealth::Unhealthy
    } else if awaited || (against + open) * 2 > voters {
        OriginHealth::Unknown
    } else {
        OriginHealth::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OriginHealth::{Healthy, Unhealthy, Unknown};

    /// Voters are letters `h`, `u`, `?`; vetoes are capital (`!` unknown); observers stand in brackets.
    fn check(members: &str, expected: OriginHealth) {
        let mut observes = false;
        let results = members.chars().filter_map(|letter| {
            let (role, health) = match letter {
                '(' | ')' => {
                    observes = letter == '(';
                    return None;
                }
                'h' => (Role::Voter, Healthy),
                'u' => (Role::Voter, Unhealthy),
                '?' => (Role::Voter, Unknown),
                'H' => (Role::Veto, Healthy),
                'U' => (Role::Veto, Unhealthy),
                '!' => (Role::Veto, Unknown),
                other => panic!("{other}"),
            };
            Some((if observes { Role::Observer } else { role }, health))
        });
        assert_eq!(verdict(results), expected, "{members}");
    }

    #[test]
    fn more_than_half_of_the_voters_make_an_origin_unhealthy() {
        for (members, health) in [
            ("h", Healthy),
            ("u", Unhealthy),
            ("hu", Healthy),
            ("huu", Unhealthy),
            ("hhu", Healthy),
            ("hhuu", Healthy),
            ("huuu", Unhealthy),
        ] {
            check(members, health);
        }
    }

    #[test]
    fn one_that_must_be_healthy_decides_when_it_fails() {
        for (members, health) in [
            ("Uhhhh", Unhealthy),
            ("Hhhh", Healthy),
            // It has no more than its vote otherwise.
            ("Huu", Unhealthy),
            ("Hu", Healthy),
            ("Uh?", Unhealthy),
            ("!hhh", Unknown),
        ] {
            check(members, health);
        }
    }

    #[test]
    fn results_that_cannot_change_the_verdict_are_not_waited_for() {
        for (members, health) in [
            ("?", Unknown),
            ("h?", Healthy),
            ("u?", Unknown),
            ("uu?", Unhealthy),
            ("h??", Unknown),
            ("hh?", Healthy),
        ] {
            check(members, health);
        }
    }

    #[test]
    fn observers_change_nothing() {
        for (members, health) in [
            ("(uuu)h", Healthy),
            ("(U)h", Healthy),
            ("(hhh)u", Unhealthy),
            ("(??)h", Healthy),
            ("(u)", Healthy),
            ("", Healthy),
        ] {
            check(members, health);
        }
    }
}
