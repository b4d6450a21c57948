//! `gantry doctor` before a workspace with one fault planted in it: the fault is found, and the words mend it.

use std::net::SocketAddr;
use std::sync::Arc;

use gantry::config;
use gantry::demo::rocketchat::{Fault, Options, RateLimit, Room, Service, Version, Workspace};
use gantry::doctor::{Context, Finding, Verdict, workspace};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;

use crate::support::proxy::{Proxy, settings};
use crate::support::within;

/// A workspace that is set up as README says, for `http://chat.test` framed by `https://app.test`.
fn well(version: Version) -> Options {
    let mut options = Options::version(version);
    options.iframe.enabled = true;
    options.iframe.url = "http://chat.test/_gantry/login".into();
    options.iframe.api_url = "http://chat.test/_gantry/token".into();
    options.settings = [
        ("Site_Url", json!("http://chat.test")),
        ("Iframe_Integration_receive_enable", json!(true)),
        ("Iframe_Integration_receive_origin", json!("https://app.test")),
        ("Iframe_Integration_send_enable", json!(true)),
        ("Iframe_Integration_send_target_origin", json!("https://app.test")),
    ]
    .map(|(id, value)| (id.to_owned(), value))
    .to_vec();
    options
}

fn newest() -> Options {
    well(Version::new(8, 8, 0))
}

/// Sets a setting of the workspace.
fn setting(options: &mut Options, id: &str, value: Value) {
    options.settings.retain(|(known, _)| known != id);
    options.settings.push((id.to_owned(), value));
}

type Keys = Vec<(String, String)>;

fn key(keys: &mut Keys, path: &str, value: &str) {
    keys.retain(|(known, _)| known != path);
    if !value.is_empty() {
        keys.push((path.to_owned(), value.to_owned()));
    }
}

/// What Gantry is configured with, for a workspace with these options at this address.
fn keys(addr: SocketAddr, options: &Options) -> Keys {
    let mut keys = settings(addr);
    key(&mut keys, "rocketchat.user_id", &options.service.id);
    key(&mut keys, "rocketchat.auth_token", &options.service.token);
    key(&mut keys, "rocketchat.create_token_secret", options.create_tokens_secret.as_deref().unwrap_or_default());
    key(&mut keys, "server.trusted_proxies", "127.0.0.1");
    keys
}

fn context(keys: &Keys) -> Context {
    let loaded = config::load(None, [], keys).unwrap_or_else(|problems| panic!("{problems:#?}"));
    Context::new(loaded.config, &Handle::current(), None).unwrap()
}

async fn ask(keys: &Keys) -> Vec<Finding> {
    within("the doctor's findings", workspace(&context(keys))).await
}

/// Everything that the doctor finds with this planted.
async fn look(mut options: Options, plant: impl Fn(&mut Options, &mut Keys)) -> (Workspace, Vec<Finding>) {
    // The keys follow the sound workspace: what is planted is on one side only, unless it says so.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut keys = keys(listener.local_addr().unwrap(), &options);
    plant(&mut options, &mut keys);
    let chat = Workspace::start(listener, options).unwrap();
    let findings = ask(&keys).await;
    (chat, findings)
}

fn of<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check} in {findings:#?}"))
}

/// Findings that are neither good nor skipped.
fn faults(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Warning | Verdict::Bad)).collect()
}

#[tokio::test]
async fn a_sound_workspace_is_found_sound_and_left_as_it_was() {
    for version in [(8, 8, 0), (8, 3, 7), (7, 13, 0), (6, 13, 0)] {
        let version = Version::new(version.0, version.1, version.2);
        let (chat, findings) = look(well(version), |_, _| {}).await;
        let told_apart = |finding: &&&Finding| !(version == Version::new(8, 3, 7) && finding.check == "workspace.version");
        assert_eq!(faults(&findings).iter().filter(told_apart).count(), 0, "{version}: {:#?}", faults(&findings));
        assert!(findings.iter().all(|finding| finding.verdict != Verdict::Skipped), "{version}: {findings:#?}");
        // One token was minted, for the service account alone, and is gone again.
        assert_eq!((chat.calls("users.createToken"), chat.calls("logout")), (1, 1), "{version}");
        let service = Service::default().id;
        assert_eq!(chat.live_tokens(&service), 0, "{version}");
        let writes = chat.requests().into_iter().filter(|request| request.method == "POST");
        let names: Vec<String> = writes.map(|request| request.endpoint).collect();
        assert_eq!(names, ["users.createToken", "logout"], "{version}: nothing else was written");
        assert!(chat.requests().iter().all(|request| request.headers["x-forwarded-proto"] == "http"), "Force_SSL would redirect");
    }
}

#[tokio::test]
async fn without_the_bypass_it_stays_within_ten_calls_a_minute() {
    let options = Options { rate_limit: Some(RateLimit::default()), ..newest() };
    let (chat, findings) = look(options, |options, _| {
        options.service = options.service.clone().without("api-bypass-rate-limit");
    })
    .await;
    let finding = of(&findings, "permissions.api-bypass-rate-limit");
    assert_eq!(finding.verdict, Verdict::Warning);
    assert!(finding.seen.contains("10 a minute") && finding.fix.contains("gantry-service"), "{finding:?}");
    assert_eq!(faults(&findings).len(), 1, "{:#?}", faults(&findings));
    for endpoint in ["me", "settings/:id", "settings.public", "/api/info", "users.createToken"] {
        assert!(chat.calls(endpoint) <= 10, "{endpoint}: {}", chat.calls(endpoint));
    }
}

/// A fault: what is planted, the check that finds it, how bad it is, and words of what is seen and of the fix.
type Planted = (fn(&mut Options, &mut Keys), &'static str, Verdict, &'static str, &'static str);

async fn find_each(options: fn() -> Options, planted: &[Planted]) {
    for (index, (plant, check, verdict, seen, fix)) in planted.iter().enumerate() {
        let (_chat, findings) = look(options(), plant).await;
        let finding = of(&findings, check);
        assert_eq!(finding.verdict, *verdict, "{index} {check}: {finding:#?}");
        assert!(finding.seen.contains(seen), "{index} {check}: {seen:?} is not in {:?}", finding.seen);
        assert!(finding.fix.contains(fix), "{index} {check}: {fix:?} is not in {:?}", finding.fix);
        // A first fault that is told of under another name would be the wrong thing to mend.
        let worse: Vec<_> = faults(&findings).into_iter().filter(|other| other.verdict == Verdict::Bad && other.check != *check).collect();
        assert!(worse.is_empty(), "{index} {check}: {worse:#?}");
    }
}

#[tokio::test]
async fn faults_of_the_service_account_are_found() {
    const NEW_TOKEN: &str = "Ignore Two Factor Authentication";
    find_each(
        newest,
        &[
            (|_, keys| key(keys, "rocketchat.auth_token", "wrong"), "account.login", Verdict::Bad, "do not belong together", NEW_TOKEN),
            (|_, keys| key(keys, "rocketchat.user_id", "gantry"), "account.login", Verdict::Bad, "rocketchat.user_id", "no usernames"),
            (|options, _| options.service.personal = false, "account.token_kind", Verdict::Bad, "not a personal access token", NEW_TOKEN),
            (|options, _| options.service.bypass_two_factor = false, "account.two_factor", Verdict::Warning, "without", NEW_TOKEN),
            (
                |options, keys| {
                    options.service.bypass_two_factor = false;
                    setting(options, "Accounts_CustomFields", json!(r#"{"hostId":{"type":"text"}}"#));
                    key(keys, "users.external_id", "hostId");
                },
                "account.two_factor",
                Verdict::Bad,
                "users.external_id",
                NEW_TOKEN,
            ),
            (
                // It cannot list its tokens, so it is tried.
                |options, _| {
                    options.service.bypass_two_factor = false;
                    options.service = options.service.clone().without("create-personal-access-tokens");
                },
                "account.two_factor",
                Verdict::Warning,
                "without",
                NEW_TOKEN,
            ),
            (
                |options, _| options.service.roles = vec!["admin".into()],
                "account.role",
                Verdict::Warning,
                "administrator",
                "a role of its own",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_account_that_was_deactivated_without_losing_its_token_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = keys(listener.local_addr().unwrap(), &newest());
    let chat = Workspace::start(listener, newest()).unwrap();
    assert!(chat.change_user("gantry", |user| user.inactive = true));
    let findings = ask(&keys).await;
    let finding = of(&findings, "account.active");
    assert!(finding.verdict == Verdict::Bad && finding.fix.contains("Activate the account gantry"), "{finding:?}");
    assert_eq!(of(&findings, "minting.create_token").verdict, Verdict::Skipped);
    assert_eq!(of(&findings, "iframe.url").verdict, Verdict::Good, "what anybody may read is looked at all the same");
    assert_eq!(chat.calls("users.createToken"), 0);
}

#[tokio::test]
async fn each_missing_permission_is_named() {
    find_each(
        newest,
        &[
            (
                |options, _| options.service = options.service.clone().without("user-generate-access-token"),
                "permissions.user-generate-access-token",
                Verdict::Bad,
                "nobody can be signed in",
                "tick user-generate-access-token for the role gantry-service",
            ),
            (
                |options, _| options.service = options.service.clone().without("view-full-other-user-info"),
                "permissions.view-full-other-user-info",
                Verdict::Bad,
                "view-full-other-user-info",
                "tick view-full-other-user-info",
            ),
            (
                |options, _| options.service = options.service.clone().without("create-user"),
                "permissions.create-user",
                Verdict::Bad,
                "users.create",
                "tick create-user",
            ),
            (
                |options, keys| {
                    options.service = options.service.clone().without("edit-other-user-info");
                    setting(options, "Accounts_CustomFields", json!(r#"{"hostId":{"type":"text"}}"#));
                    key(keys, "users.external_id", "hostId");
                    key(keys, "users.adopt_unmarked", "true");
                },
                "permissions.edit-other-user-info",
                Verdict::Bad,
                "users.external_id",
                "tick edit-other-user-info",
            ),
        ],
    )
    .await;
    find_each(
        || well(Version::new(8, 3, 7)),
        &[(
            |options, keys| {
                options.service = options.service.clone().without("view-d-room");
                key(keys, "users.match_by", "email");
            },
            "permissions.view-d-room",
            Verdict::Bad,
            "by e-mail",
            "tick view-d-room",
        )],
    )
    .await;
}

#[tokio::test]
async fn faults_of_minting_are_told_for_the_version_that_runs() {
    find_each(
        newest,
        &[
            (
                |_, keys| key(keys, "rocketchat.create_token_secret", ""),
                "minting.create_token",
                Verdict::Bad,
                "rocketchat.create_token_secret is not set",
                "create_token_secret_file",
            ),
            (
                |_, keys| key(keys, "rocketchat.create_token_secret", "another"),
                "minting.create_token",
                Verdict::Bad,
                "CREATE_TOKENS_FOR_USERS_SECRET",
                "CREATE_TOKENS_FOR_USERS_SECRET=<secret>",
            ),
            (
                // The older name was carried over an upgrade.
                |options, _| {
                    options.create_tokens_secret = None;
                    options.create_tokens_for_users = true;
                },
                "minting.create_token",
                Verdict::Bad,
                "Rocket.Chat 8.8",
                "The older CREATE_TOKENS_FOR_USERS=true no longer counts",
            ),
        ],
    )
    .await;
    find_each(
        || well(Version::new(7, 13, 0)),
        &[(
            |options, _| options.create_tokens_for_users = false,
            "minting.create_token",
            Verdict::Bad,
            "Rocket.Chat 7.13",
            "CREATE_TOKENS_FOR_USERS=true",
        )],
    )
    .await;
}

#[tokio::test]
async fn faults_of_the_iframe_settings_are_found() {
    find_each(
        newest,
        &[
            (
                |options, _| options.iframe.enabled = false,
                "iframe.enabled",
                Verdict::Bad,
                "off",
                "OVERWRITE_SETTING_Accounts_iframe_enabled=true",
            ),
            (
                |options, _| options.iframe.url = String::new(),
                "iframe.url",
                Verdict::Bad,
                "empty",
                "Accounts_iframe_url = http://chat.test/_gantry/login",
            ),
            (
                |options, _| options.iframe.url = "http://elsewhere.test/_gantry/login".into(),
                "iframe.url",
                Verdict::Bad,
                "elsewhere.test",
                "Accounts_iframe_url = http://chat.test/_gantry/login",
            ),
            (
                |options, _| options.iframe.api_url = "https://chat.test/_gantry/token".into(),
                "iframe.api_url",
                Verdict::Bad,
                "server.public_url is http",
                "OVERWRITE_SETTING_Accounts_Iframe_api_url=http://chat.test/_gantry/token",
            ),
            (
                |options, _| options.iframe.api_url = "http://chat.test/api/sso".into(),
                "iframe.api_url",
                Verdict::Bad,
                "login.token_paths",
                "Accounts_Iframe_api_url = http://chat.test/_gantry/token",
            ),
            (
                |options, _| options.iframe.api_method = String::new(),
                "iframe.api_method",
                Verdict::Bad,
                "empty",
                "Accounts_Iframe_api_method = POST",
            ),
            (
                |options, _| setting(options, "Accounts_AllowAnonymousRead", json!(true)),
                "settings.anonymous_read",
                Verdict::Bad,
                "never begins",
                "Accounts_AllowAnonymousRead = false",
            ),
            (
                |options, keys| {
                    key(keys, "framing.allowed_ancestors", "https://app.test,https://portal.test");
                    setting(options, "Iframe_Integration_receive_origin", json!("https://app.test, https://portal.test"));
                },
                "integration.receive_origin",
                Verdict::Bad,
                "blank",
                "Iframe_Integration_receive_origin = https://app.test,https://portal.test",
            ),
            (
                |options, _| setting(options, "Iframe_Integration_receive_enable", json!(false)),
                "integration.receive",
                Verdict::Warning,
                "off",
                "Iframe_Integration_receive_enable = true",
            ),
            (
                |options, _| setting(options, "Iframe_Integration_send_enable", json!(false)),
                "integration.send",
                Verdict::Warning,
                "off",
                "Iframe_Integration_send_enable = true",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn faults_of_other_settings_are_found() {
    find_each(
        newest,
        &[
            (
                |options, _| setting(options, "Iframe_Restrict_Access", json!(false)),
                "settings.framing",
                Verdict::Warning,
                "off",
                "Iframe_Restrict_Access = true",
            ),
            (
                |options, _| setting(options, "Iframe_X_Frame_Options", json!("ALLOW-FROM https://app.test")),
                "settings.framing",
                Verdict::Warning,
                "ignore ALLOW-FROM",
                "Iframe_X_Frame_Options = sameorigin",
            ),
            (
                |options, _| setting(options, "Site_Url", json!("http://localhost:3000")),
                "settings.site_url",
                Verdict::Warning,
                "localhost:3000",
                "ROOT_URL=http://chat.test",
            ),
            (|options, _| setting(options, "Force_SSL", json!(true)), "settings.force_ssl", Verdict::Bad, "http://", "Force_SSL = false"),
            (
                |options, _| setting(options, "Enable_CSP", json!(false)),
                "settings.content_security_policy",
                Verdict::Warning,
                "no content policy",
                "Enable_CSP = true",
            ),
            (
                |options, _| setting(options, "FileUpload_ProtectFiles", json!(false)),
                "settings.protected_files",
                Verdict::Warning,
                "without a login",
                "FileUpload_ProtectFiles = true",
            ),
            (
                |_, keys| key(keys, "users.external_id", "hostId"),
                "users.external_id",
                Verdict::Bad,
                "no field hostId",
                "Accounts_CustomFields = {",
            ),
            (|options, _| options.seeded_admin = false, "users.first_admin", Verdict::Bad, "becomes one", "ADMIN_PASS"),
            (|_, keys| key(keys, "users.roles", "crew"), "users.roles", Verdict::Bad, "crew", "roles = [\"user\"]"),
            (
                |options, keys| {
                    options.roles = vec!["id-of-crew".into()];
                    key(keys, "users.roles", "crew");
                },
                "users.roles",
                Verdict::Bad,
                "crew",
                "roles = [\"id-of-crew\"]",
            ),
            (|_, keys| key(keys, "users.deny_roles", "admin,auditors"), "users.deny_roles", Verdict::Warning, "auditors", "auditors"),
            (|options, _| options.two_factor_roles = vec!["user".into()], "users.two_factor", Verdict::Warning, "forces", "Two Factor"),
            (
                |_, keys| {
                    key(keys, "users.match_by", "email");
                },
                "workspace.version",
                Verdict::Good,
                "8.8",
                "",
            ),
        ],
    )
    .await;
    find_each(|| well(Version::new(7, 9, 0)), &[(|_, _| {}, "workspace.version", Verdict::Warning, "7.9", "Upgrade")]).await;
}

/// A TLS listener with a certificate that nobody vouches for.
async fn tls_origin(name: &str) -> SocketAddr {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // Nobody gets past the handshake.
            tokio::spawn(async move { drop(acceptor.accept(tcp).await) });
        }
    });
    addr
}

/// Something that answers every request with this.
async fn stub(status: &'static str, kind: &'static str, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if tcp.read_buf(&mut head).await.is_ok_and(|n| n == 0) {
                        return;
                    }
                }
                let answer = format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                // A client that has gone away has seen enough.
                let _ = tcp.write_all(answer.as_bytes()).await;
            });
        }
    });
    addr
}

const HTML: &str = "Content-Type: text/html";
const JSON: &str = "Content-Type: application/json";

#[tokio::test]
async fn what_is_no_rocketchat_is_named_for_what_it_is() {
    const CHECK: &str = "workspace.is_rocketchat";
    for (status, kind, body, seen, fix) in [
        ("200 OK", HTML, "<!doctype html><title>Harbor</title>", "a web page", "curl http://"),
        ("200 OK", JSON, r#"{"name":"something","version":"3.1"}"#, "JSON that is not", "url = \"http"),
        ("404 Not Found", "Content-Type: text/plain", "no such page", "404", "ROOT_URL"),
        ("401 Unauthorized", HTML, "<h1>Sign in</h1>", "401", "Go around it"),
        ("302 Found", "Location: https://chat.test/api/info", "", "https://chat.test/api/info", "url = \"https://chat.test\""),
        ("302 Found", "Location: /login?next=secret", "", "elsewhere", "Go around it"),
        ("503 Service Unavailable", HTML, "starting", "503", "Rocket.Chat's own log"),
        ("400 Bad Request", HTML, "The plain HTTP request was sent to HTTPS port", "wants TLS", "url = \"https://127.0.0.1"),
        ("401 Unauthorized", JSON, r#"{"error":"no_session","message":"Please sign in.","id":"1"}"#, "is a Gantry", "Rocket.Chat itself"),
    ] {
        let addr = stub(status, kind, body).await;
        let mut keys = keys(addr, &newest());
        let findings = ask(&keys).await;
        let finding = of(&findings, CHECK);
        assert_eq!(finding.verdict, Verdict::Bad, "{body}");
        assert!(finding.seen.contains(seen) && finding.fix.contains(fix), "{body}: {finding:#?}");
        assert!(
            findings.iter().all(|other| other.check == CHECK || matches!(other.verdict, Verdict::Good | Verdict::Skipped)),
            "{findings:#?}"
        );
        // The same place as the host app's.
        key(&mut keys, "framing.allowed_ancestors", &format!("http://{addr}"));
        if seen == "a web page" {
            assert!(of(&ask(&keys).await, CHECK).seen.contains("host app's own address"));
        }
    }
}

#[tokio::test]
async fn a_path_that_is_not_there_is_told_of() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let chat = Workspace::start(listener, newest()).unwrap();
    let mut keys = keys(addr, &newest());
    key(&mut keys, "rocketchat.url", &format!("http://{addr}/chat"));
    let finding = of(&ask(&keys).await, "workspace.is_rocketchat").clone();
    assert!(finding.seen.contains("without the path /chat") && finding.fix.contains(&format!("url = \"{}\"", chat.url())), "{finding:?}");
}

#[tokio::test]
async fn another_gantry_in_the_place_of_the_workspace_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let _chat = Workspace::start(listener, newest()).unwrap();
    let gantry = Proxy::before(addr);
    let findings = ask(&keys(gantry.addr, &newest())).await;
    let finding = of(&findings, "workspace.is_rocketchat");
    assert!(finding.verdict == Verdict::Bad && finding.seen.contains("is a Gantry"), "{finding:?}");
}

#[tokio::test]
async fn a_workspace_by_another_name_than_its_address_is_asked_as_the_proxy_asks() {
    let options = newest();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let chat = Workspace::start(listener, options.clone()).unwrap();
    let (by_name, authority) = crate::dev::https_front(chat.addr()).await;
    let by_address = by_name.replace("localhost", "127.0.0.1");
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("authority.pem");
    std::fs::write(&file, authority).unwrap();
    let mut keys = keys(chat.addr(), &options);
    key(&mut keys, "rocketchat.url", &by_address);
    key(&mut keys, "upstream.ca_file", file.to_str().unwrap());

    let unnamed = ask(&keys).await;
    let finding = of(&unnamed, "workspace.reachable");
    assert_eq!(finding.verdict, Verdict::Bad);
    assert!(finding.fix.contains("server_name") && !finding.fix.contains("ca_file"), "the authority is trusted: {finding:#?}");

    key(&mut keys, "rocketchat.tls.server_name", "localhost");
    let named = ask(&keys).await;
    assert_eq!(faults(&named).len(), 0, "{:#?}", faults(&named));
}

#[tokio::test]
async fn a_workspace_that_is_not_there_is_told_by_the_reason() {
    const CHECK: &str = "workspace.reachable";
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    // Accepts in the kernel, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = tls_origin("other.test").await;
    let plain = stub("200 OK", HTML, "x").await;
    for (url, seen, fix) in [
        (format!("http://{closed}"), "cannot be reached", "Start Rocket.Chat"),
        ("http://no-such-host.invalid:3000".to_owned(), "no-such-host.invalid", "does not exist for this machine"),
        (format!("http://{}", silent.local_addr().unwrap()), "did not answer within", "firewall"),
        (format!("https://{tls}"), "certificate", "ca_file"),
        (format!("http://{tls}"), "", "url = \"https://"),
        (format!("https://{plain}"), "", "url = \"http://"),
    ] {
        let mut keys = keys(closed, &newest());
        key(&mut keys, "rocketchat.url", &url);
        let findings = ask(&keys).await;
        let finding = of(&findings, CHECK);
        assert_eq!(finding.verdict, Verdict::Bad, "{url}");
        assert!(finding.seen.contains(seen) && finding.fix.contains(fix), "{url}: {finding:#?}");
        assert_eq!(faults(&findings), [finding], "{url}: what depends on it is skipped");
    }
}

#[tokio::test]
async fn endpoints_that_fail_are_skipped_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = keys(listener.local_addr().unwrap(), &newest());
    let chat = Workspace::start(listener, newest()).unwrap();
    let gone = |status: u16, body: &str| Fault::Answer { status, body: body.to_owned() };
    chat.fail_always("permissions.listAll", gone(404, r#"{"success":false,"error":"API endpoint 'permissions.listAll' not found"}"#));
    chat.fail_always("roles.list", gone(500, "boom"));
    chat.fail_always("users.getPersonalAccessTokens", Fault::CloseBefore);
    chat.fail_always("settings/:id", gone(403, r#"{"success":false,"error":"unauthorized"}"#));
    let findings = ask(&keys).await;
    assert_eq!(faults(&findings), Vec::<&Finding>::new());
    for (check, word) in
        [("permissions.create-user", "does not have it"), ("users.roles", "500"), ("account.token_kind", "cannot be listed")]
    {
        let finding = of(&findings, check);
        assert!(finding.verdict == Verdict::Skipped && finding.seen.contains(word), "{finding:?}");
    }
    // Headers and a trial tell what lists and settings would have.
    for check in ["permissions.api-bypass-rate-limit", "account.two_factor", "settings.framing", "settings.content_security_policy"] {
        assert_eq!(of(&findings, check).verdict, Verdict::Good, "{check}");
    }
}

#[tokio::test]
async fn a_login_that_cannot_be_tried_is_no_wrong_token() {
    for (status, verdict) in [(429, Verdict::Skipped), (500, Verdict::Bad)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keys = keys(listener.local_addr().unwrap(), &newest());
        let chat = Workspace::start(listener, newest()).unwrap();
        chat.fail_always("me", Fault::Answer { status, body: r#"{"success":false,"error":"not now"}"#.to_owned() });
        let findings = ask(&keys).await;
        let finding = of(&findings, "account.login");
        assert!(finding.verdict == verdict && !finding.fix.contains("Make a new one"), "{finding:?}");
        assert_eq!(chat.calls("users.createToken"), 0);
        assert_eq!(of(&findings, "iframe.url").verdict, Verdict::Good);
    }
}

#[tokio::test]
async fn a_limiter_that_is_used_up_is_respected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = keys(listener.local_addr().unwrap(), &newest());
    let chat = Workspace::start(listener, newest()).unwrap();
    let words = "Error, too many requests. Please slow down. You must wait 42 seconds before trying this endpoint again.";
    let body = json!({ "success": false, "error": words }).to_string();
    for endpoint in ["permissions.listAll", "users.createToken", "settings/:id"] {
        chat.fail_always(endpoint, Fault::Answer { status: 429, body: body.clone() });
    }
    let findings = ask(&keys).await;
    assert_eq!(faults(&findings), Vec::<&Finding>::new());
    for check in ["permissions.create-user", "minting.create_token"] {
        assert_eq!(of(&findings, check).verdict, Verdict::Skipped, "{check}");
    }
    for endpoint in ["permissions.listAll", "users.createToken", "settings/:id"] {
        assert_eq!(chat.calls(endpoint), 1, "{endpoint} was asked again though told to wait");
    }
}

#[tokio::test]
async fn what_is_kept_up_to_date_has_to_be_there_and_to_be_permitted() {
    let sync = |keys: &mut Keys| {
        key(keys, "sync.name", "true");
        key(keys, "sync.avatar", "true");
        key(keys, "sync.roles", "staff=leader,ops=Harbour Crew");
        key(keys, "sync.channels_by_role", "staff=berths");
        key(keys, "sync.teams", "night-watch");
    };
    let mut options = newest();
    options.roles = vec!["id-of-harbour crew".into()];
    let (_, findings) = look(options.clone(), |_, keys| sync(keys)).await;
    let said = |check: &str| of(&findings, check);
    for (check, seen, fix) in [
        ("permissions.edit-other-user-avatar", "sync.avatar", "edit-other-user-avatar"),
        ("permissions.access-permissions", "sync.roles", "access-permissions"),
        ("permissions.view-other-user-channels", "nobody is ever taken out", "view-other-user-channels"),
        ("permissions.remove-user", "sync.channels_by_role", "remove-user"),
        ("permissions.add-team-member", "sync.teams", "add-team-member"),
        ("sync.roles", "no role with that id", "Its id is id-of-harbour crew"),
        ("sync.channels", "berths", "Make the channel berths"),
        ("sync.teams", "night-watch", "Make the team night-watch"),
    ] {
        let finding = said(check);
        assert_eq!(finding.verdict, Verdict::Warning, "{finding:?}");
        assert!(finding.seen.contains(seen) && finding.fix.contains(fix), "{finding:?}");
    }
    // People are signed in all the same: nothing of it is fatal.
    assert!(findings.iter().all(|finding| finding.verdict != Verdict::Bad), "{:#?}", faults(&findings));

    // With all of it there, and permitted, the doctor is content.
    options.service = options.service.syncing();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut keys = keys(listener.local_addr().unwrap(), &options);
    sync(&mut keys);
    key(&mut keys, "sync.roles", "staff=leader,ops=id-of-harbour crew");
    let chat = Workspace::start(listener, options).unwrap();
    chat.add_room(Room::new("berths"));
    chat.add_room(Room { private: true, ..Room::team("night-watch") });
    let findings = ask(&keys).await;
    assert_eq!(faults(&findings), Vec::<&Finding>::new());
    for check in ["sync.roles", "sync.channels", "sync.teams", "permissions.access-permissions"] {
        assert_eq!(of(&findings, check).verdict, Verdict::Good, "{check}");
    }
}
