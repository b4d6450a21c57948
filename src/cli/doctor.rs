//! `gantry doctor`: see [`crate::doctor`].

use std::process::ExitCode;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::fail;
use crate::config::Loaded;
use crate::doctor::command::{self, Options};

/// What its flags come to.
///
/// # Errors
/// They do not go together, or a header is none.
pub(super) fn options(fix: bool, yes: bool, json: bool, headers: &[String], env: &[(String, String)]) -> Result<Options, String> {
    if fix && json && !yes {
        return Err("--json cannot be asked: say --yes with --fix, or leave one of the two out".to_owned());
    }
    let colour = env.iter().all(|(name, value)| name != "NO_COLOR" || value.is_empty());
    Ok(Options { fix, yes, json, sample: sample(headers)?, colour })
}

/// Asks and prints.
pub(super) fn run(loaded: Loaded, options: Options) -> ExitCode {
    match command::run(loaded.config, options) {
        Ok(code) => ExitCode::from(code),
        Err(why) => fail(&why),
    }
}

/// The headers of `gantry doctor --header`; none when there are none.
fn sample(written: &[String]) -> Result<Option<HeaderMap>, String> {
    let mut lines = Vec::new();
    for header in written {
        match header.strip_prefix('@') {
            None => lines.push(header.clone()),
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| format!("--header @{file}: {error}"))?;
                lines.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
            }
        }
    }
    let mut headers = HeaderMap::new();
    for line in &lines {
        // What stands behind the colon is a credential: it is not said again.
        let wrong = || "--header: write it like 'Cookie: session=…'".to_owned();
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::try_from(value.trim()).map_err(|_| wrong())?);
    }
    Ok((!headers.is_empty()).then_some(headers))
}
