//! Settings and files.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;

use super::Desk;
use crate::harness::{
    CLUSTER_SEED, Server,
    pki::{Authority, Certified},
    process::{output, stderr},
};

#[tokio::test]
async fn a_key_that_nobody_reads_is_named_with_its_line() {
    let server = Server::start().await;
    let desk = Desk::at(&server);
    desk.settings(
        &json!({ "ctl_host": server.url(), "rpc_host": server.url(), "js_domian": "core" }),
    );
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("settings", "warning", &["js_domian", "host_config.json:1"]);
}

#[tokio::test]
async fn every_mistyped_setting_is_named_and_nothing_else_is_tried() {
    let desk = Desk::new();
    desk.settings(
        &json!({ "rpc_timeout_ms": "soon", "ctl_port": 70000, "cluster_seed": "nonsense" }),
    );
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("settings", "wrong", &["rpc_timeout_ms", "soon", "accepted:"]);
    diagnosis.says("settings", "wrong", &["ctl_port", "70000"]);
    diagnosis.says("settings", "wrong", &["cluster_seed"]);
    for check in ["nats-ctl", "bucket", "hosts", "links"] {
        assert_eq!(diagnosis.verdict(check), "skipped", "{check}");
    }
    // Checks that need no lattice are made all the same.
    diagnosis.is_content("machine");
}

#[tokio::test]
async fn a_variable_that_overrules_the_file_is_named_with_both_values() {
    let server = Server::start().await;
    let desk = Desk::at(&server).variable("WASMCLOUD_JS_DOMAIN", "edge");
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("settings", "warning", &["js_domain", "WASMCLOUD_JS_DOMAIN", "edge", "core"]);
    let desk = Desk::at(&server).variable("NATS_HOST", "127.0.0.1").variable(
        "WASMCLOUD_CLUSTER_SEED",
        "SCAEYDHNSPDUEZBW2DRSYA6WLAJVDYLFTWQAZTDTHF6F2E3IXGCTGH6LCQ",
    );
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("settings", "wrong", &["cluster_seed"]);
    diagnosis.hides(CLUSTER_SEED);
}

#[tokio::test]
async fn the_same_value_twice_is_nothing_to_talk_about() {
    let server = Server::start().await;
    let diagnosis = Desk::at(&server).variable("WASMCLOUD_JS_DOMAIN", "core").diagnosis().await;
    diagnosis.is_content("settings");
}

#[tokio::test]
async fn settings_that_everybody_can_read_are_named_with_the_command_that_hides_them() {
    let server = Server::start().await;
    let desk = Desk::at(&server);
    let file = desk.path().join("host_config.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("files", "wrong", &["host_config.json", "0644", "chmod 600"]);
    diagnosis.hides(CLUSTER_SEED);
}

#[tokio::test]
async fn certificates_that_are_none_or_count_no_longer_are_told_apart() {
    let server = Server::start().await;
    let desk = Desk::at(&server);
    let authority = Authority::new(desk.path(), "authority");
    let Certified { key, .. } = authority.sign(desk.path(), "client");
    let mut expired = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    expired.not_before = rcgen::date_time_ymd(2019, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = expired.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let expired = desk.file("expired.pem", expired.pem());
    let nothing = desk.file("nothing.pem", "no certificate");
    desk.settings(&json!({
        "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "core", "ctl_tls": "false", "rpc_tls": "false",
        "ctl_tls_ca": nothing, "rpc_tls_cert": expired, "rpc_tls_key": key,
    }));
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("files", "wrong", &["nothing.pem", "ctl_tls_ca"]);
    diagnosis.says("files", "wrong", &["expired.pem", "rpc_tls_cert", "expired"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_to_is_named() {
    let server = Server::start().await;
    // A file where the directory should be: even for those who may do everything.
    let desk = Desk::at(&server);
    let file = desk.file("occupied", "");
    let desk = desk.variable("XDG_CACHE_HOME", &file.to_string_lossy());
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("machine", "wrong", &["caches", "occupied"]);
}

#[tokio::test]
async fn checks_are_listed_and_chosen_by_name() {
    let server = Server::start().await;
    let desk = Desk::at(&server).with("--check", "settings").with("--check", "nats-ctl");
    let diagnosis = desk.diagnosis().await;
    assert_eq!(diagnosis.report["checks"].as_array().unwrap().len(), 2);
    assert_eq!(diagnosis.verdict("nats-ctl"), "ok");

    let list = output(
        crate::harness::process::command(desk.path()).args(["doctor", "--list", "-o", "name"]),
    );
    assert!(String::from_utf8_lossy(&list.stdout).lines().any(|name| name == "bucket"), "{list:?}");
    let unknown = output(
        crate::harness::process::command(desk.path()).args(["doctor", "--check", "weather"]),
    );
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("bucket"), "{unknown:?}");
}
