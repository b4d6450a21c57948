//! The little that `gantry rescue` needs of a configuration, so that it works when the rest is broken.

use super::check::load;
use super::raw::{Raw, Value};
use super::{Config, Problem, keys};

/// What was found.
#[derive(Clone, Debug)]
pub struct Rescue {
    /// A configuration with the way to the workspace in it, and nothing else of anybody's.
    pub config: Config,
    /// Whether the service account is in it.
    pub service_account: bool,
    /// What is wrong elsewhere, which does not matter here.
    pub passed_over: usize,
}

/// Stands for what is required and not used.
const NOTHING: &str = "unused";
/// Who is called, and how.
const WAY: [&str; 4] = ["rocketchat.url", "rocketchat.timeout", "rocketchat.tls.", "upstream."];
/// By whom.
const ACCOUNT: [&str; 4] = ["rocketchat.user_id", "rocketchat.user_id_file", "rocketchat.auth_token", "rocketchat.auth_token_file"];

/// Reads what was written where ([`load`] says what the three are), and takes what is needed. `url` beats what is written
/// for `rocketchat.url`; the service account is left out where `with_account` says so.
///
/// # Errors
/// What is wrong with what is needed.
pub fn rescue(
    text: Option<(&str, &str)>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
    url: Option<&str>,
    with_account: bool,
) -> Result<Rescue, Vec<Problem>> {
    let (raw, problems) = Raw::read(text, env, flags);
    let begins = |path: &str, with: &str| path == with || (with.ends_with('.') && path.starts_with(with));
    let needed = |path: &str| {
        let way = WAY.iter().any(|with| begins(path, with)) && !(url.is_some() && path == "rocketchat.url");
        way || (with_account && ACCOUNT.contains(&path))
    };
    // What is no TOML at all has no key, and may hold what is needed.
    let (mut wrong, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(|problem| needed(&problem.key));
    let mut taken: Vec<(String, String)> = keys::paths()
        .filter(|path| needed(path) && raw.is_written(path))
        .filter_map(|path| Some((path.clone(), written(&raw.get(&path)?.value)?)))
        .collect();
    if let Some(url) = url {
        taken.push(("rocketchat.url".to_owned(), url.to_owned()));
    }
    let has = |taken: &[(String, String)], path: &str| taken.iter().any(|(known, _)| known.trim_end_matches("_file") == path);
    let service_account = has(&taken, "rocketchat.user_id") && has(&taken, "rocketchat.auth_token");
    if !service_account {
        taken.retain(|(path, _)| !ACCOUNT.contains(&path.as_str()));
        taken.extend(["rocketchat.user_id", "rocketchat.auth_token"].map(|path| (path.to_owned(), NOTHING.to_owned())));
    }
    // The workspace believes that whoever calls came by https: with Force_SSL on it would redirect otherwise.
    let rest = [
        ("server.public_url", "https://gantry.invalid"),
        // Nothing listens: no address of the workspace's can be taken for our own.
        ("server.listen", "127.0.0.1:0"),
        ("server.admin_listen", "off"),
        ("identity.source", "header"),
        ("identity.header.id", NOTHING),
    ];
    taken.extend(rest.map(|(path, value)| (path.to_owned(), value.to_owned())));
    let missing = !has(&taken, "rocketchat.url");
    match load(None, [], &taken) {
        Ok(loaded) if wrong.is_empty() => Ok(Rescue { config: loaded.config, service_account, passed_over: others.len() }),
        Ok(_) => Err(wrong),
        Err(problems) => {
            // The place where it really was written.
            for problem in problems {
                let given = url.is_some() && problem.key == "rocketchat.url";
                let place =
                    if given { "--url".to_owned() } else { raw.get(&problem.key).map_or(String::new(), |entry| entry.place.to_string()) };
                if !wrong.iter().any(|known| known.key == problem.key) {
                    wrong.push(Problem { place, ..problem });
                }
            }
            if missing {
                wrong.extend(others.into_iter().filter(|problem| problem.key.is_empty()));
            }
            Err(wrong)
        }
    }
}

/// A value as a flag would set it.
fn written(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::List(items) => Some(items.join(",")),
        Value::Secret(secret) => Some(secret.expose().to_owned()),
        Value::Unusable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[server]
public_url = "nonsense"
listen = 7
[rocketchat]
url = "http://rocketchat:3000/chat"
user_id = "svc"
auth_token = "hunter2"
[rocketchat.tls]
server_name = "inner.example"
[login.native]
enabled = true
[unheard-of]
key = 1
"#;

    fn found(text: &str, url: Option<&str>, with_account: bool) -> Result<Rescue, Vec<Problem>> {
        rescue(Some(("proxy.toml", text)), [], &[], url, with_account)
    }

    #[test]
    fn a_broken_rest_does_not_matter() {
        let text = FILE.replace("[rocketchat.tls]\nserver_name = \"inner.example\"\n", "");
        let found_by = |url, with_account| found(&text, url, with_account).unwrap();
        let all = found_by(None, true);
        assert_eq!(all.config.rocketchat.url.as_str(), "http://rocketchat:3000/chat");
        assert_eq!((all.config.rocketchat.user_id.as_str(), all.config.rocketchat.auth_token.get().expose()), ("svc", "hunter2"));
        assert!(all.service_account && all.passed_over > 0);
        let other = found_by(Some("https://other.example"), false);
        assert_eq!(other.config.rocketchat.url.as_str(), "https://other.example/");
        assert!(!other.service_account && other.config.rocketchat.user_id == NOTHING);
        let by_flag = rescue(None, [], &[("rocketchat.url".to_owned(), "http://a".to_owned())], None, true).unwrap();
        assert!(!by_flag.service_account);
    }

    #[test]
    fn what_is_wrong_with_what_is_needed_is_told_with_its_place() {
        for (text, url, key, word) in [
            ("", None, "rocketchat.url", "is required"),
            ("[rocketchat]\nurl = \"ftp://x\"", None, "rocketchat.url", "proxy.toml line 2"),
            ("[rocketchat]\nurl = 7", None, "rocketchat.url", "proxy.toml line 2"),
            ("", Some("nowhere"), "rocketchat.url", "--url"),
            ("[rocketchat", None, "", "is not TOML"),
            (FILE, None, "rocketchat.tls.server_name", "has no effect"),
            (
                "[rocketchat]\nurl = \"http://x\"\nuser_id = \"a\"\nauth_token_file = \"/nowhere\"",
                None,
                "rocketchat.auth_token_file",
                "cannot be used",
            ),
        ] {
            let problems = found(text, url, true).unwrap_err();
            assert!(problems.iter().any(|problem| problem.key == key && problem.to_string().contains(word)), "{text} {problems:?}");
            assert!(!format!("{problems:?}").contains("hunter2"));
        }
        assert!(found("[rocketchat", Some("http://x"), true).is_ok(), "a file that is no TOML holds nothing that is needed then");
    }
}
