//! libFuzzer over [`lb_common::testing::script`]: `cargo xtask fuzz`.
#![no_main]

use lb_common::testing::script;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| script::run(bytes));
