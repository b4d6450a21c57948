//! `print-config`: the effective configuration as TOML that loads again, secrets masked.

use super::keys::{self, Key};
use super::raw::{Place, Raw, Value};
use super::{Config, Loaded};

/// The effective configuration. Values that are not defaults carry the place they come from.
pub fn print(loaded: &Loaded) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in keys::KEYS {
        let Some((name, value, place)) = line(key, &loaded.raw, &loaded.config) else { continue };
        if key.section() != section {
            section = key.section();
            let gap = if out.is_empty() { "" } else { "\n" };
            out.extend([gap, "[", section, "]\n"]);
        }
        out.extend([&name, " = ", &value]);
        if *place != Place::Default {
            let place: String = place.to_string().chars().filter(|c| !c.is_control()).collect();
            out.extend([" # ", &place]);
        }
        out.push('\n');
    }
    out
}

/// Name, value and place of what holds for a key.
fn line<'a>(key: &Key, raw: &'a Raw, config: &Config) -> Option<(String, String, &'a Place)> {
    if let Some(file) = key.is_secret().then(|| raw.get(&format!("{}_file", key.path))).flatten() {
        return Some((format!("{}_file", key.name()), file.value.to_toml(), &file.place));
    }
    let entry = raw.get(key.path)?;
    let value = match key.path {
        // These two follow from elsewhere: the cores of the machine, the prefix.
        "server.workers" => config.server.workers.to_string(),
        "login.token_paths" => Value::List(config.login.token_paths.clone()).to_toml(),
        _ => entry.value.to_toml(),
    };
    Some((key.name().to_owned(), value, &entry.place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn what_is_printed_loads_again() {
        let text = r#"
server = { public_url = "https://chat.example.com", trusted_proxies = ["10.0.0.0/8"] }
[rocketchat]
url = "http://127.0.0.1:3000"
user_id = "svc"
auth_token = "hunter2"
[identity]
source = "header"
header = { id = "x-user" }
[login]
app_name = "Quote \" back \\ slash # hash"
prefix = "/sso/"
[cache]
tokens_per_user = 3
sessions = { ttl = "5s" }
"#;
        let env = [("GANTRY_USERS__ROLES".to_owned(), "user, guest".to_owned())];
        let first = load(Some(("proxy.toml", text)), env, &[("log.level".to_owned(), "gantry=debug,info".to_owned())]).unwrap();
        let printed = print(&first);
        assert!(!printed.contains("hunter2"));
        for line in [
            "public_url = \"https://chat.example.com\" # proxy.toml line 2",
            "auth_token = \"***\" # proxy.toml line 6",
            "roles = [\"user\", \"guest\"] # environment variable GANTRY_USERS__ROLES",
            "level = \"gantry=debug,info\" # flag --set log.level",
            "listen = \"127.0.0.1:8080\"",
            "token_paths = [\"/sso/token\"]",
            "[cache.sessions]",
        ] {
            assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
        }
        let second = load(Some(("printed", &printed)), [], &[]).unwrap();
        assert_eq!(format!("{:?}", first.config), format!("{:?}", second.config));
    }
}
