//! The whole pipeline in memory: packets in; verdicts, packets, flows and counters out.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod fixtures;
