//! Notices: which changes of health are told to which webhook, and when each is sent, sent again, or given up.

mod outbox;

pub use outbox::{Outbox, Outcome, Step};

use crate::history::{Change, Health, Problem, Subject};
use crate::model::{NotificationFilter, Webhook};

/// What a change is to those who are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A problem has begun.
    Unhealthy,
    /// A problem is over, or whom it was about is disabled or removed.
    Resolved,
    /// A pool was enabled or disabled.
    Enablement { enabled: bool },
}

/// What a change is for a webhook; `None`: it is not told. `filter` is that of the pool.
///
/// Only what begins or ends a problem is told: an origin that is healthy for the first time is no news to anybody who was
/// not told that it was not.
#[must_use]
pub fn notice(webhook: &Webhook, filter: &NotificationFilter, change: &Change) -> Option<Notice> {
    if !webhook.enabled {
        return None;
    }
    if !webhook.pools.is_empty() {
        let pool = change.subject.pool()?;
        if !webhook.pools.iter().any(|wanted| wanted == pool) {
            return None;
        }
    }
    health(webhook, filter, change).or_else(|| enablement(webhook, filter, change))
}

fn health(webhook: &Webhook, filter: &NotificationFilter, change: &Change) -> Option<Notice> {
    let healthy = match change.problem? {
        Problem::Began(_) => false,
        Problem::Ended(_) => true,
        Problem::GoesOn(_) => return None,
    };
    let wanted = match change.subject {
        Subject::Pool(_) => webhook.sources.pool && filter.pool.passes(healthy),
        Subject::Origin { .. } => webhook.sources.origin && filter.origin.passes(healthy),
        Subject::LoadBalancer(_) => webhook.sources.load_balancer,
    };
    let (wanted, notice) = match healthy {
        true => (wanted && webhook.tells.healthy, Notice::Resolved),
        false => (wanted && webhook.tells.unhealthy, Notice::Unhealthy),
    };
    wanted.then_some(notice)
}

fn enablement(webhook: &Webhook, filter: &NotificationFilter, change: &Change) -> Option<Notice> {
    let is_pool = matches!(change.subject, Subject::Pool(_));
    let (was, now) = (change.was? == Health::Disabled, change.now? == Health::Disabled);
    let told = webhook.pool_enablement && is_pool && !filter.pool.disable && was != now;
    told.then_some(Notice::Enablement { enabled: was })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EventSources, FilterOptions, Tells, WebhookUrl};

    fn webhook() -> Webhook {
        Webhook {
            name: "ops".into(),
            enabled: true,
            url: WebhookUrl {
                tls: true,
                host: "hooks.example".into(),
                port: 443,
                path: "/secret".into(),
            },
            allow_insecure: false,
            secret_file: None,
            pools: Vec::new(),
            sources: EventSources::default(),
            tells: Tells::default(),
            pool_enablement: false,
            timeout: Webhook::TIMEOUT,
            max_pending: 3,
            give_up_after: Webhook::GIVE_UP_AFTER,
        }
    }

    fn change(subject: Subject, was: Health, now: Option<Health>, problem: Option<Problem>) -> Change {
        Change {
            sequence: 9,
            subject,
            was: Some(was),
            now,
            problem,
            reason: None,
            address: None,
            origins: None,
        }
    }

    #[test]
    fn webhooks_and_pools_choose_what_is_told() {
        use Health::{Critical, Disabled, Healthy, Unhealthy, Unknown};
        let origin = |was, now, problem| {
            let subject = Subject::Origin {
                pool: "eu".into(),
                origin: "a".into(),
            };
            change(subject, was, now, problem)
        };
        let pool = |was, now, problem| change(Subject::Pool("eu".into()), was, now, problem);
        let down = origin(Healthy, Some(Unhealthy), Some(Problem::Began(9)));
        let up = origin(Unhealthy, Some(Healthy), Some(Problem::Ended(7)));
        let gone = origin(Unhealthy, None, Some(Problem::Ended(7)));
        let first = origin(Unknown, Some(Healthy), None);
        let critical = pool(Healthy, Some(Critical), Some(Problem::Began(9)));
        let off = pool(Critical, Some(Disabled), Some(Problem::Ended(7)));
        let on = pool(Disabled, Some(Healthy), None);
        let balancer = change(
            Subject::LoadBalancer("web".into()),
            Healthy,
            Some(Critical),
            Some(Problem::Began(9)),
        );
        let all = [&down, &up, &gone, &first, &critical, &off, &on, &balancer];
        let told = |webhook: &Webhook, filter: &NotificationFilter| -> String {
            let letter = |change: &&Change| match notice(webhook, filter, change) {
                None => '-',
                Some(Notice::Unhealthy) => 'U',
                Some(Notice::Resolved) => 'R',
                Some(Notice::Enablement { enabled: true }) => '1',
                Some(Notice::Enablement { enabled: false }) => '0',
            };
            all.iter().map(letter).collect()
        };
        let open = NotificationFilter::default();
        assert_eq!(told(&webhook(), &open), "URR-UR--");
        let only = |pools: &[&str]| Webhook {
            pools: pools.iter().map(|pool| (*pool).to_owned()).collect(),
            ..webhook()
        };
        assert_eq!(told(&only(&["us"]), &open), "--------");
        assert_eq!(told(&only(&["us", "eu"]), &open), "URR-UR--");
        let every = Webhook {
            sources: EventSources {
                pool: true,
                origin: false,
                load_balancer: true,
            },
            pool_enablement: true,
            ..webhook()
        };
        assert_eq!(told(&every, &open), "----UR1U");
        let bad_news = Webhook {
            tells: Tells {
                healthy: false,
                unhealthy: true,
            },
            pool_enablement: true,
            ..webhook()
        };
        assert_eq!(told(&bad_news, &open), "U---U01-");
        let filter = NotificationFilter {
            origin: FilterOptions {
                disable: false,
                healthy: Some(false),
            },
            pool: FilterOptions {
                disable: true,
                healthy: None,
            },
        };
        assert_eq!(told(&webhook(), &filter), "U-------");
        let disabled = Webhook {
            enabled: false,
            ..webhook()
        };
        assert_eq!(told(&disabled, &open), "--------");
    }

    #[test]
    fn a_path_is_not_shown() {
        let text = format!("{:?} {}", webhook(), webhook().url.endpoint());
        assert!(
            text.contains("https://hooks.example:443") && !text.contains("/secret"),
            "{text}"
        );
    }
}
