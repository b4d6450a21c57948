//! `deploy/compose/setup.mjs`: from an empty workspace to a Gantry that signs people in, with nothing done by hand.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use gantry::demo::host_app::HostUser;
use gantry::demo::rocketchat::{Fault, Options, Service, User, Workspace};

use super::support::{Apps, Ended, Program, token};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose/setup.mjs");
const ENVIRONMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose/env.mjs");

/// The two volumes.
struct Volumes(tempfile::TempDir);

impl Volumes {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap_or_default().trim().to_owned()
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.path().join(name)).unwrap();
    }

    /// Runs the script as one of the services does, beside the runtime that the stand-ins live on.
    async fn setup(&self, command: &'static str, extra: &[(&str, &str)]) -> Ended {
        let mut node = Command::new("node");
        node.args([SCRIPT, command]).stdin(Stdio::null());
        node.env("ROCKETCHAT_SECRETS", self.path("rocketchat")).env("GANTRY_SECRETS", self.path("gantry"));
        node.env("RETRY_SECONDS", "0.05").envs(extra.iter().copied());
        let output = tokio::task::spawn_blocking(move || node.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Makes the service account in this workspace.
    async fn account(&self, chat: &Workspace, extra: &[(&str, &str)]) -> Ended {
        let url = chat.url();
        let given: Vec<_> = [("WORKSPACE_URL", url.as_str())].into_iter().chain(extra.iter().copied()).collect();
        self.setup("account", &given).await
    }

    fn admin(&self) -> User {
        User { roles: vec!["admin".into()], password: self.read("rocketchat/admin-password"), ..User::new("admin") }
    }
}

/// Secrets, and a workspace that was started with them. Its built-in service account is out of the way.
async fn fresh(options: Options) -> (Volumes, Apps) {
    let volumes = Volumes::new();
    let made = volumes.setup("secrets", &[]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let service = Service { username: "somebody.else".into(), ..Service::default() };
    let secret = Some(volumes.read("rocketchat/create-token-secret"));
    let apps = Apps::start(Options { service, create_tokens_secret: secret, ..options }).await;
    apps.chat.add_user(volumes.admin());
    (volumes, apps)
}

/// A Gantry with these files signs somebody in who has no account yet.
async fn signs_in(apps: &mut Apps, volumes: &Volumes, name: &str) {
    for (key, file) in [("USER_ID", "user-id"), ("AUTH_TOKEN", "auth-token"), ("CREATE_TOKEN_SECRET", "create-token-secret")] {
        apps.set(&format!("GANTRY_ROCKETCHAT__{key}"), "");
        apps.set(&format!("GANTRY_ROCKETCHAT__{key}_FILE"), &volumes.path(&format!("gantry/{file}")));
    }
    let program = Program::start(&[], &apps.env());
    apps.app.add_user(HostUser::new(name, name));
    let reply = token(program.addresses().0, &apps.app.sign_in(name)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(apps.chat.user(name).is_some());
}

#[tokio::test]
async fn secrets_are_made_once_and_for_their_readers_only() {
    let volumes = Volumes::new();
    let first = volumes.setup("secrets", &[]).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    let names = ["rocketchat/admin-password", "rocketchat/create-token-secret", "gantry/create-token-secret", "gantry/logout-secret"];
    let before = names.map(|name| volumes.read(name));
    for (name, secret) in names.iter().zip(&before) {
        assert!(secret.len() >= 32, "{name}: {secret:?}");
        assert!(!first.stdout.contains(secret.as_str()), "{name} was printed");
        let mode = std::fs::metadata(volumes.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o400, "{name}");
    }
    assert_eq!(before[1], before[2], "both sides know the same");
    assert_ne!(before[0], before[1]);
    let again = volumes.setup("secrets", &[]).await;
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), ""), "{again:?}");
    assert_eq!(names.map(|name| volumes.read(name)), before);

    // Rocket.Chat's process finds them in its environment.
    let env = [("NODE_OPTIONS", format!("--import={ENVIRONMENT}")), ("ROCKETCHAT_SECRETS", volumes.path("rocketchat"))];
    let expression = "process.env.ADMIN_PASS + ' ' + process.env.CREATE_TOKENS_FOR_USERS_SECRET";
    let shown = Command::new("node").args(["-p", expression]).envs(env).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), format!("{} {}", before[0], before[1]));
    volumes.remove("rocketchat/admin-password");
    let env = [("NODE_OPTIONS", format!("--import={ENVIRONMENT}")), ("ROCKETCHAT_SECRETS", volumes.path("rocketchat"))];
    let refused = Command::new("node").args(["-p", "1"]).envs(env).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("admin-password is missing"));
}

#[tokio::test]
async fn an_empty_workspace_gets_an_account_that_works() {
    let (volumes, mut apps) = fresh(Options::default()).await;
    let made = volumes.account(&apps.chat, &[]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    for secret in ["rocketchat/admin-password", "rocketchat/service-password", "gantry/auth-token"] {
        assert!(!made.stdout.contains(&volumes.read(secret)), "{secret} was printed");
    }
    let account = apps.chat.user("gantry").unwrap();
    assert_eq!(account.id, volumes.read("gantry/user-id"));
    assert_eq!(account.roles.len(), 1, "one small role: {:?}", account.roles);
    assert!(!["admin", "bot", "user"].contains(&account.roles[0].as_str()));
    assert!(!account.emails[0].verified, "a verified address would ask for a code by e-mail");
    assert_eq!(account.sessions(), 0, "its sessions are ended");
    assert_eq!(apps.chat.user("admin").unwrap().sessions(), 0);
    signs_in(&mut apps, &volumes, "ada").await;

    // Again, as every `docker compose up` does: nothing is made twice.
    let (token, calls) = (volumes.read("gantry/auth-token"), apps.chat.calls("login"));
    let again = volumes.account(&apps.chat, &[]).await;
    assert_eq!((again.code, again.stdout.contains("its token works")), (Some(0), true), "{again:?}");
    assert_eq!((volumes.read("gantry/auth-token"), apps.chat.calls("login")), (token, calls));
}

#[tokio::test]
async fn without_a_licence_for_roles_it_takes_the_one_for_bots_and_says_so() {
    let (volumes, mut apps) = fresh(Options { custom_roles: false, ..Options::default() }).await;
    let made = volumes.account(&apps.chat, &[]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.contains("no custom roles"), "{}", made.stdout);
    assert_eq!(apps.chat.user("gantry").unwrap().roles, ["bot"]);
    signs_in(&mut apps, &volumes, "ada").await;
}

#[tokio::test]
async fn what_was_lost_is_made_again() {
    let (volumes, mut apps) = fresh(Options { rate_limit: None, ..Options::default() }).await;
    assert_eq!(volumes.account(&apps.chat, &[]).await.code, Some(0));
    let old = volumes.read("gantry/auth-token");
    volumes.remove("gantry/auth-token");
    let made = volumes.account(&apps.chat, &[]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(!apps.chat.is_live(&old), "the lost token is ended");
    signs_in(&mut apps, &volumes, "ada").await;

    // The account's password too, and its role.
    volumes.remove("gantry/auth-token");
    volumes.remove("rocketchat/service-password");
    assert!(apps.chat.change_user("gantry", |user| user.roles = vec!["user".into()]));
    let made = volumes.account(&apps.chat, &[]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(apps.chat.user("gantry").unwrap().roles.len(), 2);
    signs_in(&mut apps, &volumes, "grace").await;
}

#[tokio::test]
async fn it_waits_for_a_workspace_that_is_not_there_yet() {
    let (volumes, mut apps) = fresh(Options::default()).await;
    // First nobody listens, then something answers that is not ready, then the administrator is not made yet.
    apps.chat.fail_next("/api/info", Fault::Answer { status: 503, body: "starting".into() });
    assert!(apps.chat.change_user("admin", |user| user.password = "not yet".into()));
    apps.chat.down().await;
    let password = volumes.read("rocketchat/admin-password");
    let running = volumes.account(&apps.chat, &[("RETRY_SECONDS", "1")]);
    let late = async {
        apps.chat.up().await;
        apps.chat.wait_for("a login that was refused", |state| state.calls("login") >= 1).await;
        assert!(apps.chat.change_user("admin", |user| user.password = password));
    };
    let (made, ()) = tokio::join!(running, late);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.contains("waiting for"), "{}", made.stdout);
    signs_in(&mut apps, &volumes, "ada").await;
}

#[tokio::test]
async fn what_it_cannot_do_it_says() {
    let (volumes, apps) = fresh(Options { rate_limit: None, ..Options::default() }).await;
    let no_patience = [("PATIENCE_SECONDS", "0.1")];
    let failed = async |extra: &[(&str, &str)], words: &[&str]| {
        let ended = volumes.account(&apps.chat, extra).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for word in words {
            assert!(ended.stderr.contains(word), "{word} is missing: {}", ended.stderr);
        }
        assert!(!Path::new(&volumes.path("gantry/auth-token")).exists());
    };
    let before = apps.chat.calls("login");
    failed(&[("ADMIN_USERNAME", "nobody")], &["nobody", "401", "admin-password"]).await;
    let tries = apps.chat.calls("login") - before;
    assert!((2..10).contains(&tries), "{tries} tries; after ten Rocket.Chat locks the account");
    failed(&[("SERVICE_USERNAME", "admin")], &["is an administrator", "SERVICE_USERNAME"]).await;
    assert!(apps.chat.change_user("admin", |user| user.two_factor = true));
    failed(&[], &["two-factor", "by hand"]).await;
    assert!(apps.chat.change_user("admin", |user| user.two_factor = false));
    apps.chat.fail_next("users.create", Fault::Answer { status: 400, body: r#"{"success":false,"error":"no seat"}"#.into() });
    failed(&[], &["making the account gantry", "no seat"]).await;
    volumes.remove("rocketchat/admin-password");
    failed(&[], &["admin-password is missing", "setup.mjs secrets"]).await;
    apps.chat.down().await;
    failed(&no_patience, &["Rocket.Chat at", "ECONNREFUSED"]).await;
    let usage = volumes.setup("nonsense", &[]).await;
    assert!(usage.code == Some(1) && usage.stderr.contains("\"secrets\" or \"account\""), "{usage:?}");
}
