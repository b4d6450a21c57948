//! What `gantry check` finds in certificates, and what a start without a good one says.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use super::support::{Ended, gantry};

/// A self-signed pair for this name that was good for some days.
fn pair(dir: &Path, stem: &str, name: &str, days: (i32, i32)) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    let at = |day: i32| {
        let span = std::time::Duration::from_hours(24 * u64::from(day.unsigned_abs()));
        let now = std::time::SystemTime::now();
        if day < 0 { now - span } else { now + span }.into()
    };
    (params.not_before, params.not_after) = (at(days.0), at(days.1));
    std::fs::write(dir.join(format!("{stem}.crt")), params.self_signed(&key).unwrap().pem()).unwrap();
    let path = dir.join(format!("{stem}.key"));
    std::fs::write(&path, key.serialize_pem()).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn run(command: &str, sets: &[String]) -> Ended {
    let fixed = [
        "server.listen=127.0.0.1:0",
        "server.admin_listen=off",
        "server.public_url=https://chat.example.test",
        "server.tls.listen=127.0.0.1:0",
        "rocketchat.url=http://127.0.0.1:9",
        "rocketchat.user_id=service",
        "rocketchat.auth_token=token",
        "rocketchat.create_token_secret=secret",
        "identity.source=header",
        "identity.header.id=x-id",
        "server.trusted_proxies=10.0.0.1",
    ];
    let mut args = vec![command];
    for set in fixed.iter().copied().chain(sets.iter().map(String::as_str)) {
        args.extend(["--set", set]);
    }
    gantry(&args, &[])
}

fn files(dir: &Path, cert: &str, key: &str) -> Vec<String> {
    vec![format!("server.tls.cert_file={}", dir.join(cert).display()), format!("server.tls.key_file={}", dir.join(key).display())]
}

#[test]
fn check_reads_every_pair() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pair(dir, "one", "chat.example.test", (-1, 90));
    pair(dir, "two", "chat.example.test", (-1, 90));
    pair(dir, "old", "chat.example.test", (-90, -1));
    pair(dir, "soon", "chat.example.test", (-90, 5));
    pair(dir, "other", "other.test", (-1, 90));
    let good = run("check", &files(dir, "one.crt", "one.key"));
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""), "{good:?}");
    for (cert, key, words) in [
        ("old.crt", "old.key", &["warning: server.tls.cert_file", "old.crt expired on"][..]),
        ("soon.crt", "soon.key", &["warning: server.tls.cert_file", "soon.crt expires in 4 days"]),
        ("other.crt", "other.key", &["warning: server.public_url", "chat.example.test", "other.test"]),
    ] {
        let ended = run("check", &files(dir, cert, key));
        assert!(ended.code == Some(0) && words.iter().all(|word| ended.stderr.contains(word)), "{ended:?}");
    }
    std::fs::set_permissions(dir.join("soon.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ended = run("check", &files(dir, "soon.crt", "soon.key"));
    assert!(ended.code == Some(0) && ended.stderr.contains("soon.key can be read by every user"), "{ended:?}");
    let mixed = files(dir, "one.crt", "two.key");
    for command in ["check", "run"] {
        let ended = run(command, &mixed);
        assert_eq!(ended.code, Some(if command == "check" { 64 } else { 1 }), "{ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        for word in ["server.tls.key_file", "one.crt", "two.key", "does not belong"] {
            assert!(said.contains(word), "{word}: {ended:?}");
        }
    }
    // Every pair of the directory, each with its file.
    std::fs::write(dir.join("two.key"), std::fs::read(dir.join("one.key")).unwrap()).unwrap();
    std::fs::write(dir.join("other.crt"), "nothing").unwrap();
    let ended = run("check", &[format!("server.tls.cert_dir={}", dir.display())]);
    assert_eq!(ended.code, Some(64), "{ended:?}");
    for word in ["2 problems", "two.key", "other.crt", "server.tls.cert_dir"] {
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
    }
    let empty = tempfile::tempdir().unwrap();
    let ended = run("check", &[format!("server.tls.cert_dir={}", empty.path().display())]);
    assert!(ended.code == Some(64) && ended.stderr.contains("holds no pair"), "{ended:?}");
}

#[test]
fn check_reads_what_acme_and_the_workspace_need() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pair(dir, "one", "chat.example.test", (-1, 90));
    pair(dir, "two", "chat.example.test", (-1, 90));
    std::fs::write(dir.join("file"), "").unwrap();
    let acme = |more: &[String]| [&["server.acme.domains=chat.example.test".to_owned()], more].concat();
    let good = run("check", &acme(&[format!("server.acme.cache_dir={}", dir.join("cache").display())]));
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""), "{good:?}");
    assert!(!dir.join("cache").exists(), "a check leaves nothing behind");
    let client = |name: &str, file: &str| format!("rocketchat.tls.{name}={}", dir.join(file).display());
    for (sets, words) in [
        (acme(&[format!("server.acme.cache_dir={}", dir.join("file").display())]), &["server.acme.cache_dir", "not a directory"][..]),
        (
            acme(&["server.acme.eab_key_id=kid".into(), "server.acme.eab_hmac_key=not base64!".into()]),
            &["server.acme.eab_hmac_key", "base64url"],
        ),
        (
            acme(&["server.tls.client_auth=required".into(), format!("server.tls.client_ca_file={}", dir.join("one.crt").display())]),
            &["server.acme.challenge", "http-01"],
        ),
        (acme(&["server.acme.domains=*.chat.example.test".into()]), &["server.acme.domains", "*.chat.example.test"]),
        (
            [
                files(dir, "one.crt", "one.key"),
                vec![
                    "rocketchat.url=https://chat.internal".into(),
                    client("client_cert_file", "one.crt"),
                    client("client_key_file", "two.key"),
                ],
            ]
            .concat(),
            &["rocketchat.tls.client_cert_file", "does not belong", "two.key"],
        ),
    ] {
        let ended = run("check", &sets);
        assert!(ended.code == Some(64) && words.iter().all(|word| ended.stderr.contains(word)), "{words:?}: {ended:?}");
        assert!(!ended.stderr.contains("not base64!"), "secrets are masked: {ended:?}");
    }
}
