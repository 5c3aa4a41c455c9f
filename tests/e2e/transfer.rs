//! Large transfers come out byte for byte, with checksum and segmentation offload as the kernel sets them.

use crate::{eu, http_at, on_all, web};
use lb_tests::daemon::Daemon;
use lb_tests::gate::number;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::netns::Netns;
use lb_tests::{needs_root, servers};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

const MEGABYTE: usize = 1 << 20;

/// Fills a file with bytes that do not repeat, so that a segment that is lost, doubled or misplaced shows.
fn generate(path: &Path, megabytes: usize) {
    let mut file = BufWriter::with_capacity(MEGABYTE, File::create(path).unwrap());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..megabytes * MEGABYTE / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success(), "sha256sum {}", path.display());
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

fn sha256_of_download(client: &Netns, url: &str) -> String {
    let script = format!(
        "set -o pipefail; curl --silent --show-error --fail --globoff --max-time 300 '{url}' | sha256sum"
    );
    client
        .run("bash", &["-c", &script])
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

fn download_is_identical(vip: impl Into<IpAddr>, megabytes: usize) {
    let vip = vip.into();
    let lab = Lab::routed(2);
    let _nginx = on_all(&lab, servers::nginx);
    let mut lb = Daemon::start(&lab, &web(vip, &eu(&lab, vip, 80, &[1.0, 1.0])));
    lb.wait_healthy(&["eu"]);
    let original = servers::files(&lab.origins[0]).join("big");
    generate(&original, megabytes);
    std::fs::hard_link(&original, servers::files(&lab.origins[1]).join("big")).unwrap();
    let url = format!("http://{}/files/big", http_at(vip));
    assert_eq!(sha256_of_download(&lab.client, &url), sha256(&original));
}

#[test]
fn a_gigabyte_is_downloaded_byte_for_byte_over_ipv4() {
    needs_root!();
    download_is_identical(VIP4, number("LB_TEST_DOWNLOAD_MB", 1024));
}

#[test]
fn a_large_file_is_downloaded_byte_for_byte_over_ipv6() {
    needs_root!();
    download_is_identical(VIP6, number("LB_TEST_DOWNLOAD_MB", 1024).min(256));
}

#[test]
fn a_large_file_is_uploaded_byte_for_byte() {
    needs_root!();
    for vip in [IpAddr::from(VIP4), VIP6.into()] {
        let lab = Lab::routed(1);
        let _nginx = on_all(&lab, servers::nginx);
        let mut lb = Daemon::start(&lab, &web(vip, &eu(&lab, vip, 80, &[1.0])));
        lb.wait_healthy(&["eu"]);
        let original = lab.folder().join("upload");
        generate(&original, number("LB_TEST_DOWNLOAD_MB", 1024).min(128));
        let url = format!("http://{}/upload/big", http_at(vip));
        let upload = original.to_str().unwrap();
        let words = [
            "--silent",
            "--show-error",
            "--fail",
            "--globoff",
            "--max-time",
            "120",
            "--upload-file",
            upload,
            &url,
        ];
        lab.client.run("curl", &words);
        assert_eq!(
            sha256(&servers::uploads(&lab.origins[0]).join("big")),
            sha256(&original)
        );
    }
}
