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
            out.push_str(&format!("{gap}[{section}]\n"));
        }
        out.push_str(&format!("{name} = {value}"));
        if *place != Place::Default {
            let place: String = place.to_string().chars().filter(|c| !c.is_control()).collect();
            out.push_str(&format!(" # {place}"));
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
