//! Large transfers come out byte for byte, with checksum and segmentation offload as the kernel sets them.

use crate::{eu, http_at, on_all, web};
use lb_tests::daemon::Daemon;
use lb_tests::files::{download, generate, sha256, upload};
use lb_tests::gate::number;
use lb_tests::lab::{Lab, VIP4, VIP6};
use lb_tests::{needs_root, servers};
use std::net::IpAddr;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

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
    assert_eq!(download(&lab.client, &url, LIMIT), Ok(sha256(&original)));
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
        upload(&lab.client, &original, &url, LIMIT).unwrap();
        assert_eq!(
            sha256(&servers::uploads(&lab.origins[0]).join("big")),
            sha256(&original)
        );
    }
}
