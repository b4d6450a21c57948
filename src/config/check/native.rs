//! `[login.native]`.

use crate::config::NativeLogin;

use super::{Reader, rules};

/// Shorter secrets are refused: this one is typed into a page that anybody may be able to reach.
const SHORTEST: usize = 16;

pub(super) fn native(r: &mut Reader<'_>) -> Option<NativeLogin> {
    let enabled = r.bool("login.native.enabled");
    let addresses = "login.native.allowed_addresses";
    let allowed: Vec<_> = r.each(addresses, rules::network).into_iter().map(|(_, network)| network).collect();
    let secret = r.secret("login.native.secret", 0);
    let lasts = r.duration("login.native.lasts");
    if let Some(secret) = &secret
        && secret.get().expose().chars().count() < SHORTEST
    {
        let form = if secret.path().is_some() { "login.native.secret_file" } else { "login.native.secret" };
        r.problem(form, format!("is shorter than {SHORTEST} characters and may be guessed; make one with: openssl rand -hex 32"));
    }
    if enabled == Some(true) {
        // What was written and cannot be used has been told already.
        let meant = !r.is_blank(addresses) || ["login.native.secret", "login.native.secret_file"].iter().any(|path| r.is_written(path));
        if allowed.is_empty() && secret.is_none() && !meant {
            r.problem(
                "login.native.enabled",
                "is true, and nothing guards it: anybody could have Rocket.Chat's login form; set login.native.allowed_addresses, \
                 login.native.secret_file, or both",
            );
        }
        if secret.is_none() && allowed.iter().any(|network| network.prefix_len() == 0) {
            r.warn(addresses, "lets everybody in, and no login.native.secret is asked for: anybody can have Rocket.Chat's login form");
        }
    }
    Some(NativeLogin { enabled: enabled?, allowed_addresses: allowed, secret, lasts: lasts? })
}

#[cfg(test)]
mod tests {
    use crate::config::{Problem, load};

    const GOOD: &str = r#"
server.public_url = "https://chat.example.com"
rocketchat = { url = "http://127.0.0.1:3000", user_id = "svc", auth_token = "token" }
identity = { source = "forward_auth", forward_auth = { url = "https://app.example.com/api/me" } }
"#;

    fn with(lines: &str) -> Result<(crate::config::NativeLogin, Vec<String>), Vec<Problem>> {
        let text = format!("{GOOD}[login.native]\n{lines}");
        load(Some(("proxy.toml", &text)), [], &[])
            .map(|loaded| (loaded.config.login.native, loaded.warnings.iter().map(|warning| warning.key.clone()).collect()))
    }

    #[test]
    fn it_is_off_unless_it_is_guarded() {
        let (native, warnings) = with("").unwrap();
        assert!(!native.enabled && native.secret.is_none() && native.allowed_addresses.is_empty() && warnings.is_empty());
        assert_eq!(native.lasts, std::time::Duration::from_hours(1));
        for (lines, key, word) in [
            ("enabled = true", "login.native.enabled", "nothing guards it"),
            ("enabled = true\nallowed_addresses = []", "login.native.enabled", "nothing guards it"),
            ("enabled = true\nsecret = \"fifteen-letters\"", "login.native.secret", "shorter than 16"),
            ("secret = \"short\"", "login.native.secret", "shorter than 16"),
            ("enabled = true\nallowed_addresses = [\"office\"]", "login.native.allowed_addresses", "neither an IP address"),
            ("enabled = true\nsecret_file = \"/nowhere\"", "login.native.secret_file", "cannot be used"),
            ("lasts = \"0s\"", "login.native.lasts", "zero"),
        ] {
            let problems = with(lines).unwrap_err();
            assert_eq!(problems.len(), 1, "{lines}: {problems:?}");
            assert!(problems[0].key == key && problems[0].why.contains(word), "{lines}: {problems:?}");
        }
    }

    #[test]
    fn one_guard_is_enough_and_an_open_one_is_a_warning() {
        for (lines, addresses, secret, warned) in [
            ("enabled = true\nsecret = \"sixteen-letters!\"", 0, true, false),
            ("enabled = true\nallowed_addresses = [\"10.0.0.0/8\", \"2001:db8::7\"]", 2, false, false),
            ("enabled = true\nallowed_addresses = [\"0.0.0.0/0\"]", 1, false, true),
            ("enabled = true\nallowed_addresses = [\"::/0\"]", 1, false, true),
            ("enabled = true\nallowed_addresses = [\"::/0\"]\nsecret = \"sixteen-letters!\"", 1, true, false),
            ("enabled = false\nallowed_addresses = [\"0.0.0.0/0\"]", 1, false, false),
        ] {
            let (native, warnings) = with(lines).unwrap();
            assert_eq!((native.allowed_addresses.len(), native.secret.is_some()), (addresses, secret), "{lines}");
            assert_eq!(warnings, if warned { vec!["login.native.allowed_addresses".to_owned()] } else { vec![] }, "{lines}");
        }
    }
}
