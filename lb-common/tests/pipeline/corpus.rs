//! What the fuzzer has found worth keeping is played again.

use lb_common::testing::script;

/// Inputs that reach all the code that a search has reached; written by `cargo xtask fuzz --minimise`.
const CORPUS: &str = include_str!("../../../tests/fuzz/corpus.txt");
/// Inputs that have broken a promise once.
const FINDINGS: &str = include_str!("../../../tests/fuzz/findings.txt");

fn play(file: &str) -> usize {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let play = |line: &str| {
        // Said first: a panic would not say which.
        println!("{line}");
        let digits: Vec<&str> = line
            .as_bytes()
            .chunks(2)
            .map(|pair| str::from_utf8(pair).unwrap())
            .collect();
        let bytes = digits.iter().map(|pair| u8::from_str_radix(pair, 16).unwrap());
        script::run(&bytes.collect::<Vec<_>>());
    };
    lines.map(play).count()
}

#[test]
fn every_script_of_the_corpus_keeps_its_promises() {
    let played = play(CORPUS);
    assert!(played >= 300, "{played}");
}

#[test]
fn what_was_found_stays_mended() {
    assert!(play(FINDINGS) > 0);
}
