//! What waits to be sent to one webhook: in order, one at a time, again after a failure, and not for ever.
//!
//! Times are microseconds since 1970, because what waits outlives the process.

use crate::model::Webhook;
use std::collections::VecDeque;

/// Before the first repetition.
const FIRST_PAUSE: u64 = 1_000_000;
/// Before any.
const LONGEST_PAUSE: u64 = 300_000_000;

/// What waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outbox {
    waiting: VecDeque<Waiting>,
    /// The first one is being sent.
    sending: bool,
    /// Not before that; 0: at once.
    pause_until: u64,
    failures: u32,
    max_pending: usize,
    give_up_after: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Waiting {
    id: u64,
    created: u64,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing waits, or an answer does.
    Idle,
    /// Ask again then.
    Wait(u64),
    /// Send this one, and say how that went.
    Send { id: u64, attempt: u32 },
    /// This one was tried for long enough, and is forgotten. Ask again.
    GiveUp(u64),
}

/// What an answer has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Delivered {
        id: u64,
        /// After failures.
        recovered: bool,
    },
    Failed {
        /// Before this one all went well.
        first: bool,
    },
}

impl Outbox {
    #[must_use]
    pub fn new(webhook: &Webhook) -> Self {
        Self {
            waiting: VecDeque::new(),
            sending: false,
            pause_until: 0,
            failures: 0,
            max_pending: webhook.max_pending.max(1) as usize,
            give_up_after: u64::try_from(webhook.give_up_after.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes one more. When there is no room the oldest that is not being sent is forgotten, and returned.
    pub fn push(&mut self, id: u64, created: u64) -> Option<u64> {
        self.waiting.push_back(Waiting { id, created });
        if self.waiting.len() <= self.max_pending {
            return None;
        }
        let oldest = usize::from(self.sending);
        self.waiting.remove(oldest).map(|dropped| dropped.id)
    }

    /// What is to be done at `now`.
    pub fn step(&mut self, now: u64) -> Step {
        let Some(first) = self.waiting.front().copied() else {
            return Step::Idle;
        };
        if self.sending {
            return Step::Idle;
        }
        if now.saturating_sub(first.created) > self.give_up_after {
            self.waiting.pop_front();
            return Step::GiveUp(first.id);
        }
        // A clock that was set back must not make it wait for longer than any pause.
        let until = self.pause_until.min(now.saturating_add(LONGEST_PAUSE));
        if until > now {
            return Step::Wait(until);
        }
        self.sending = true;
        Step::Send {
            id: first.id,
            attempt: self.failures + 1,
        }
    }

    /// How it went with the one that was being sent. `random` spreads repetitions, so that many nodes do not ask at once.
    pub fn answered(&mut self, now: u64, random: u64, delivered: bool) -> Option<Outcome> {
        if !std::mem::take(&mut self.sending) {
            return None;
        }
        if delivered {
            self.pause_until = 0;
            let recovered = std::mem::take(&mut self.failures) > 0;
            let id = self.waiting.pop_front()?.id;
            return Some(Outcome::Delivered { id, recovered });
        }
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(20))
            .min(LONGEST_PAUSE);
        // Between half of it and all of it.
        self.pause_until = now.saturating_add(pause / 2 + random % (pause / 2 + 1));
        self.failures = self.failures.saturating_add(1);
        Some(Outcome::Failed {
            first: self.failures == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EventSources, Tells, WebhookUrl};
    use core::time::Duration;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    fn outbox() -> Outbox {
        Outbox::new(&Webhook {
            name: "ops".into(),
            enabled: true,
            url: WebhookUrl {
                tls: false,
                host: "h".into(),
                port: 80,
                path: "/".into(),
            },
            allow_insecure: false,
            secret_file: None,
            pools: Vec::new(),
            sources: EventSources::default(),
            tells: Tells::default(),
            pool_enablement: false,
            timeout: Webhook::TIMEOUT,
            max_pending: 3,
            give_up_after: Duration::from_secs(1_000),
        })
    }

    #[test]
    fn they_are_sent_in_order_and_again_after_a_pause_that_grows() {
        let mut outbox = outbox();
        assert_eq!(outbox.step(0), Step::Idle);
        assert_eq!((outbox.push(1, 0), outbox.push(2, 0)), (None, None));
        assert_eq!(outbox.step(0), Step::Send { id: 1, attempt: 1 });
        assert_eq!(outbox.step(0), Step::Idle, "one at a time");
        assert_eq!(
            outbox.answered(0, u64::MAX - 1, false),
            Some(Outcome::Failed { first: true })
        );
        let mut now = 0;
        let mut pauses = Vec::new();
        for attempt in 2..=11 {
            let Step::Wait(until) = outbox.step(now) else {
                panic!("no pause")
            };
            pauses.push((until - now) / SECOND);
            now = until;
            assert_eq!(outbox.step(now), Step::Send { id: 1, attempt });
            if attempt < 11 {
                // The shortest pause that may come.
                let outcome = outbox.answered(now, 0, false);
                assert_eq!(outcome, Some(Outcome::Failed { first: false }));
            }
        }
        assert_eq!(pauses[1..], [1, 2, 4, 8, 16, 32, 64, 128, 150]);
        let outcome = outbox.answered(now, 0, true);
        assert_eq!(
            outcome,
            Some(Outcome::Delivered {
                id: 1,
                recovered: true
            })
        );
        assert_eq!(outbox.step(now), Step::Send { id: 2, attempt: 1 });
        let outcome = outbox.answered(now, 0, true);
        assert_eq!(
            outcome,
            Some(Outcome::Delivered {
                id: 2,
                recovered: false
            })
        );
        assert_eq!(outbox.answered(now, 0, true), None, "nobody asked");
    }

    #[test]
    fn what_is_too_old_is_given_up_and_what_is_too_much_is_forgotten() {
        let mut outbox = outbox();
        for id in 1..=3 {
            assert_eq!(outbox.push(id, id * SECOND), None);
        }
        assert_eq!(outbox.push(4, 4 * SECOND), Some(1));
        assert_eq!(outbox.step(5 * SECOND), Step::Send { id: 2, attempt: 1 });
        assert_eq!(outbox.push(5, 5 * SECOND), Some(3), "2 is on its way");
        outbox.answered(5 * SECOND, 0, false);
        assert_eq!(outbox.step(1_003 * SECOND), Step::GiveUp(2));
        assert_eq!(outbox.step(1_003 * SECOND), Step::Send { id: 4, attempt: 2 });
        // The clock was set back.
        outbox.answered(1_003 * SECOND, 0, false);
        assert_eq!(outbox.step(0), Step::Wait(300 * SECOND));
    }

    proptest! {
        /// Whatever happens: in order, none twice after it was delivered, and in the end nothing waits.
        #[test]
        fn each_is_delivered_once_or_given_up(answers in proptest::collection::vec((any::<bool>(), any::<u64>()), 1..200)) {
            let mut outbox = outbox();
            let (mut now, mut next, mut ended) = (0, 1, Vec::new());
            for (delivered, random) in answers {
                if random % 3 == 0 {
                    ended.extend(outbox.push(next, now));
                    next += 1;
                }
                match outbox.step(now) {
                    Step::Idle => {}
                    Step::Wait(until) => now = until,
                    Step::GiveUp(id) => ended.push(id),
                    Step::Send { .. } => {
                        if let Some(Outcome::Delivered { id, .. }) = outbox.answered(now, random, delivered) {
                            ended.push(id);
                        }
                    }
                }
                prop_assert!(outbox.len() <= 3);
            }
            now += 2_000 * SECOND;
            while let Step::GiveUp(id) = outbox.step(now) {
                ended.push(id);
            }
            prop_assert!(outbox.is_empty());
            prop_assert_eq!(ended, (1..next).collect::<Vec<_>>());
        }
    }
}
