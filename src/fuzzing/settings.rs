//! The configuration: whatever is written, a mistake is told with its key, on one line, and without secrets.

use crate::config::raw::Raw;
use crate::config::{self, Problem, keys};

const MARK: &str = "S3cr3tMark";
const SECRETS: &[&str] = &["auth_token", "create_token_secret", "logout_secret", "admin_token", "secret", "eab_hmac_key"];

/// A file, and behind a line `%%%` variables, one a line.
///
/// # Panics
/// A mistake is told badly, or a secret is shown.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    // Files that the configuration names are read; those never end.
    if ["/dev", "/proc", "/sys", "\\"].iter().any(|endless| text.contains(endless)) {
        return;
    }
    let (file, variables) = text.split_once("\n%%%\n").unwrap_or((&text, ""));
    let env: Vec<(String, String)> =
        variables.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let outcome = config::load(Some(("proxy.toml", file)), env.clone(), &[]);
    let (problems, printed) = match &outcome {
        Ok(loaded) => (&loaded.warnings, config::print::print(loaded)),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused for no reason");
            (problems, String::new())
        }
    };
    let (_, shape) = Raw::read(Some(("print-config", &printed)), [], &[]);
    assert!(shape.is_empty(), "what is printed cannot be read again: {shape:?}\n{printed}");
    let mut told = printed;
    for problem in problems {
        good(problem);
        told.push_str(&problem.to_string());
    }
    assert!(problems.iter().filter(|problem| problem.key.is_empty()).count() <= 1, "{problems:?}");
    if only_in_secrets(file) && !variables.contains(MARK) {
        assert!(!told.contains(MARK), "a secret is shown: {told}");
    }
}

fn good(problem: &Problem) {
    let words = problem.to_string();
    assert!(!problem.why.is_empty() && !words.chars().any(char::is_control), "{words:?}");
    // Text that is no TOML has no key.
    assert!(!(problem.key.is_empty() && problem.place.is_empty()), "{words:?}");
    let known = keys::find(&problem.key).is_some() || problem.key.is_empty();
    assert!(known || !problem.place.is_empty() || problem.key.contains('.'), "where is that? {words:?}");
}

/// Whether the mark stands nowhere but in values of keys that hold secrets.
fn only_in_secrets(file: &str) -> bool {
    let is_secret = |line: &str| {
        line.split_once('=').is_some_and(|(name, value)| SECRETS.contains(&name.trim()) && !name.contains(MARK) && value.contains(MARK))
    };
    file.contains(MARK)
        && !file.contains("\"\"\"")
        && !file.contains("'''")
        && file.lines().filter(|line| line.contains(MARK)).all(is_secret)
}
