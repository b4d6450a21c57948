//! What a command line leads to: the configuration, from flags, the environment and a file.

use std::path::{Path, PathBuf};

use super::ConfigArgs;
use crate::config::{self, Loaded, Problem};

/// Reads the configuration.
pub(super) fn load(args: &ConfigArgs, env: Vec<(String, String)>) -> Result<Loaded, Vec<Problem>> {
    let flags = set_flags(args)?;
    let found = found(args, &env);
    let text = found.as_deref().map(read).transpose()?;
    let name = found.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
    config::load(text.as_deref().map(|text| (name.as_str(), text)), env, &flags)
}

fn problem(key: &str, value: String, why: String) -> Vec<Problem> {
    vec![Problem { key: key.into(), value, place: String::new(), why }]
}

/// What `--set` sets.
pub(super) fn set_flags(args: &ConfigArgs) -> Result<Vec<(String, String)>, Vec<Problem>> {
    let split = |set: &String| {
        let (key, value) =
            set.split_once('=').ok_or_else(|| problem("--set", set.clone(), "write it like --set server.listen=127.0.0.1:8080".into()))?;
        Ok((key.trim().to_owned(), value.to_owned()))
    };
    args.set.iter().map(split).collect()
}

/// The configuration file that was asked for, or else the one that is there.
pub(super) fn found(args: &ConfigArgs, env: &[(String, String)]) -> Option<PathBuf> {
    named(args, env).or_else(|| ["proxy.toml", "/etc/gantry/proxy.toml"].iter().map(PathBuf::from).find(|path| path.exists()))
}

/// The configuration file that was asked for.
pub(super) fn named(args: &ConfigArgs, env: &[(String, String)]) -> Option<PathBuf> {
    args.config.clone().or_else(|| env.iter().find(|(name, _)| name == "GANTRY_CONFIG").map(|(_, value)| PathBuf::from(value)))
}

/// The text of a configuration file.
pub(super) fn read(path: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(path).map_err(|error| {
        problem("--config", path.display().to_string(), format!("cannot be read: {error}; give the path of the configuration file"))
    })
}
