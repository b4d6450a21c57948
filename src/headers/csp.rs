//! A content security policy that came for another origin (CSP 3), for a proxy on a developer's machine.

/// A field with what names the workspace naming us, and with `ours` allowed as a source of style sheets and
/// scripts. On plain http what would turn us into https is taken out. `move_source` gives the new form of a
/// source, `None` for one that stays.
pub(super) fn moved(field: &str, tls: bool, ours: &str, move_source: impl Fn(&str) -> Option<String>) -> String {
    let policies: Vec<String> = field.split(',').map(|policy| policy_moved(policy, tls, ours, &move_source)).collect();
    policies.join(",")
}

fn policy_moved(policy: &str, tls: bool, ours: &str, move_source: &impl Fn(&str) -> Option<String>) -> String {
    let mut directives: Vec<Directive> = Vec::new();
    for directive in policy.split(';') {
        let mut words = directive.split_ascii_whitespace();
        let Some(name) = words.next().map(str::to_ascii_lowercase) else { continue };
        if !tls && matches!(name.as_str(), "upgrade-insecure-requests" | "block-all-mixed-content") {
            continue;
        }
        let sources = words.map(|word| moved_source(word, move_source)).collect();
        // Only the first of a name counts (§2.2.1).
        if !directives.iter().any(|known| known.name == name) {
            directives.push(Directive { name, sources });
        }
    }
    for kind in ["style-src", "script-src"] {
        allow(&mut directives, kind, ours);
    }
    let written: Vec<String> = directives.iter().map(Directive::written).collect();
    written.join("; ")
}

struct Directive {
    name: String,
    sources: Vec<String>,
}

impl Directive {
    fn written(&self) -> String {
        std::iter::once(self.name.as_str()).chain(self.sources.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }
}

fn moved_source(source: &str, move_source: &impl Fn(&str) -> Option<String>) -> String {
    if source.starts_with('\'') || source.ends_with(':') {
        return source.to_owned();
    }
    if source.contains("://") {
        return move_source(source).unwrap_or_else(|| source.to_owned());
    }
    // A host without a scheme takes the page's.
    move_source(&format!("//{source}")).unwrap_or_else(|| source.to_owned())
}

/// Lets `ours` be loaded by elements: in the directive that decides about them, or in one of our own where
/// only the general one does.
fn allow(directives: &mut Vec<Directive>, kind: &str, ours: &str) {
    let element = format!("{kind}-elem");
    let find = |directives: &[Directive], name: &str| directives.iter().position(|directive| directive.name == name);
    let decides = find(directives, &element).or_else(|| find(directives, kind)).or_else(|| find(directives, "default-src"));
    let Some(at) = decides else { return };
    let mut sources = directives[at].sources.clone();
    if sources.iter().any(|source| source == "*" || source.eq_ignore_ascii_case("'self'")) {
        return;
    }
    sources.retain(|source| !source.eq_ignore_ascii_case("'none'"));
    sources.push(ours.to_owned());
    if directives[at].name == "default-src" {
        directives.push(Directive { name: element, sources });
    } else {
        directives[at].sources = sources;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "https://chat.localhost:8443/_gantry/dev/";

    fn move_source(source: &str) -> Option<String> {
        let rest = source.split_once("//")?.1;
        let path = rest.strip_prefix("chat.example.com").filter(|path| path.is_empty() || path.starts_with('/'))?;
        let scheme = if source.starts_with("wss") { "wss" } else { "https" };
        Some(format!("{scheme}://chat.localhost:8443{path}"))
    }

    #[test]
    fn policies_move_and_let_our_bar_in() {
        for (policy, expected) in [
            // Rocket.Chat's own needs nothing.
            (
                "default-src 'self' ; connect-src *; style-src 'self' 'unsafe-inline' ",
                "default-src 'self'; connect-src *; style-src 'self' 'unsafe-inline'",
            ),
            ("frame-ancestors 'self'", "frame-ancestors 'self'"),
            (
                "default-src 'none'",
                "default-src 'none'; style-src-elem https://chat.localhost:8443/_gantry/dev/; script-src-elem https://chat.localhost:8443/_gantry/dev/",
            ),
            (
                "default-src 'none'; script-src 'nonce-x'; style-src 'nonce-x'",
                "default-src 'none'; script-src 'nonce-x' https://chat.localhost:8443/_gantry/dev/; style-src 'nonce-x' https://chat.localhost:8443/_gantry/dev/",
            ),
            (
                "script-src 'self' https://chat.example.com/x; connect-src wss://chat.example.com chat.example.com data:",
                "script-src 'self' https://chat.localhost:8443/x; connect-src wss://chat.localhost:8443 https://chat.localhost:8443 data:",
            ),
            ("style-src 'none', script-src *", "style-src https://chat.localhost:8443/_gantry/dev/,script-src *"),
            ("STYLE-SRC 'self'; style-src 'none'", "style-src 'self'"),
            ("upgrade-insecure-requests", "upgrade-insecure-requests"),
        ] {
            assert_eq!(moved(policy, true, OURS, move_source), expected, "{policy}");
        }
    }

    #[test]
    fn plain_http_is_not_upgraded() {
        assert_eq!(moved("upgrade-insecure-requests; img-src *", false, OURS, move_source), "img-src *");
    }
}
