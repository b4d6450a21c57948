//! What differs between two generations of the configuration.

use super::keys::{self, Key};
use super::{Config, IdentitySource, JwtKeys, Loaded};
use crate::secret::SecretSource;

/// Keys whose values differ, in the order of `proxy.toml`. A secret differs when it, its file or the content
/// of its file does; it is named by its key in any case.
pub fn changes(old: &Loaded, new: &Loaded) -> Vec<&'static str> {
    keys::KEYS.iter().filter(|key| differs(key, old, new)).map(|key| key.path).collect()
}

fn differs(key: &Key, old: &Loaded, new: &Loaded) -> bool {
    let at = |path: &str| old.raw.get(path).map(|entry| &entry.value) != new.raw.get(path).map(|entry| &entry.value);
    let content = || secret(&old.config, key.path).map(SecretSource::known) != secret(&new.config, key.path).map(SecretSource::known);
    at(key.path) || (key.is_secret() && at(&format!("{}_file", key.path))) || content()
}

/// The secret behind a key, if it is one and is set.
fn secret<'a>(config: &'a Config, path: &str) -> Option<&'a SecretSource> {
    match path {
        "server.admin_token" => config.server.admin_token.as_ref(),
        "server.acme.eab_hmac_key" => config.server.acme.as_ref()?.eab.as_ref().map(|(_, key)| key),
        "rocketchat.auth_token" => Some(&config.rocketchat.auth_token),
        "rocketchat.create_token_secret" => config.rocketchat.create_token_secret.as_ref(),
        "login.native.secret" => config.login.native.secret.as_ref(),
        "session.logout_secret" => config.session.logout_secret.as_ref(),
        "session.back_channel.secret" | "session.back_channel.key_file" => {
            match &config.identity.back_channel.as_ref().filter(|back| back.section == "session.back_channel")?.keys {
                JwtKeys::SharedSecret(secret) if path.ends_with("secret") => Some(secret),
                JwtKeys::PublicKey(key) if path.ends_with("key_file") => Some(key),
                _ => None,
            }
        }
        "identity.jwt.secret" | "identity.jwt.key_file" => {
            let IdentitySource::Jwt(jwt) = &config.identity.source else { return None };
            match &jwt.keys {
                JwtKeys::SharedSecret(secret) if path == "identity.jwt.secret" => Some(secret),
                JwtKeys::PublicKey(key) if path == "identity.jwt.key_file" => Some(key),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    const FILE: &str = r#"
server.public_url = "https://chat.example.com"
rocketchat = { url = "http://127.0.0.1:3000", user_id = "svc", auth_token_file = "TOKEN" }
identity = { source = "jwt", jwt = { cookie = "session", secret = "a-shared-secret-of-32-bytes-or-more", algorithms = ["HS256"] } }
session.logout_secret = "a-logout-secret-of-some-length"
"#;

    fn loaded(text: &str, token: &std::path::Path) -> Loaded {
        let text = text.replace("TOKEN", &token.display().to_string());
        load(Some(("proxy.toml", &text)), [], &[]).unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    #[test]
    fn keys_and_secrets_that_differ_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        std::fs::write(&one, "the-token").unwrap();
        std::fs::write(&other, "the-token").unwrap();
        let first = loaded(FILE, &one);
        assert_eq!(changes(&first, &loaded(FILE, &one)), [""; 0]);
        // A default that is written out is no change.
        assert_eq!(changes(&first, &loaded(&format!("{FILE}log.level = \"info\"\n"), &one)), [""; 0]);
        assert_eq!(changes(&first, &loaded(&format!("{FILE}log.level = \"debug\"\n"), &one)), ["log.level"]);
        assert_eq!(changes(&first, &loaded(&FILE.replace("logout-secret", "logout-other"), &one)), ["session.logout_secret"]);
        assert_eq!(changes(&first, &loaded(&FILE.replace("shared", "other!"), &one)), ["identity.jwt.secret"]);
        assert_eq!(changes(&first, &loaded(FILE, &other)), ["rocketchat.auth_token"], "another file");
        std::fs::write(&one, "another-token").unwrap();
        assert_eq!(changes(&first, &loaded(FILE, &one)), ["rocketchat.auth_token"], "another content");
    }

    #[test]
    fn every_secret_is_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "the-token").unwrap();
        let flags: Vec<(String, String)> = keys::KEYS
            .iter()
            .filter(|key| key.is_secret() && key.path != "rocketchat.auth_token" && !key.path.starts_with("identity."))
            .map(|key| (key.path.to_owned(), "c2VjcmV0LW9mLXNvbWUtbGVuZ3RoLTMyLWJ5dGVz".to_owned()))
            .chain(
                [
                    ("server.acme.domains", "chat.example.com"),
                    ("server.acme.eab_key_id", "kid"),
                    ("server.acme.cache_dir", dir.path().to_str().unwrap()),
                    ("server.tls.listen", "127.0.0.1:8443"),
                    ("session.back_channel.issuer", "https://id.example.com"),
                    ("session.back_channel.audience", "chat"),
                    ("session.back_channel.algorithms", "HS256"),
                ]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
            )
            .collect();
        let text = FILE.replace("TOKEN", token.to_str().unwrap());
        let all = load(Some(("proxy.toml", &text)), [], &flags).unwrap_or_else(|problems| panic!("{problems:#?}"));
        for key in keys::KEYS.iter().filter(|key| key.is_secret()) {
            assert!(secret(&all.config, key.path).is_some(), "{}", key.path);
        }
    }
}
