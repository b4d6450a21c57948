//! Pages as text with slots. A template is cut into pieces once, at start; what goes into a slot is never
//! looked at for slots again, so no name or message can bring one in.

use std::fmt::Write as _;

/// What is filled in for each answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// The nonce of this answer's policy.
    Nonce,
    /// The correlation id.
    RequestId,
    /// `true` or `false`: whether Rocket.Chat's desktop app asks.
    Electron,
    /// The error's heading.
    Title,
    /// The error's sentence.
    Message,
    /// The error's status code.
    Status,
    /// A link that asks again, where that may help.
    Again,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Stays as it is.
    Text(String),
    /// Differs from answer to answer.
    Slot(Slot),
}

impl Piece {
    /// Text that stays as it is.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

/// A page, cut at its slots.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Cuts `source` at `{{name}}`; `fill` says what stands for a name. Unknown names stay as written.
    pub(super) fn cut(source: &str, fill: impl Fn(&str) -> Option<Vec<Piece>>) -> Self {
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some(start) = rest.find("{{") {
            let inner = &rest[start + 2..];
            let known = inner.find("}}").and_then(|end| Some((end, fill(inner[..end].trim())?)));
            if let Some((end, filling)) = known {
                pieces.push(Piece::text(&rest[..start]));
                pieces.extend(filling);
                rest = &inner[end + 2..];
            } else {
                pieces.push(Piece::text(&rest[..start + 2]));
                rest = inner;
            }
        }
        pieces.push(Piece::text(rest));
        Self { pieces }
    }

    /// The page, with `fill` writing what each slot holds.
    pub(super) fn render(&self, fill: impl Fn(Slot, &mut String)) -> String {
        let len: usize = self.pieces.iter().map(|piece| if let Piece::Text(text) = piece { text.len() } else { 32 }).sum();
        let mut page = String::with_capacity(len);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => page.push_str(text),
                Piece::Slot(slot) => fill(*slot, &mut page),
            }
        }
        page
    }
}

/// Text for HTML, in content and in double or single quotes.
pub(in crate::edge) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A JSON string with its quotes, safe inside a `<script>` element: nothing there can end the element,
/// begin a comment, or be a line end to JavaScript.
pub(super) fn json(text: &str) -> String {
    let plain = serde_json::Value::from(text).to_string();
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String does not fail");
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_and_stray_braces_stay() {
        let known = |name: &str| (name == "a").then(|| vec![Piece::text("{{b}}"), Piece::Slot(Slot::Nonce)]);
        for (source, expected) in [
            ("", ""),
            ("x {{a}} y", "x {{b}}N y"),
            ("{{ a }}{{a}}", "{{b}}N{{b}}N"),
            ("{{b}} {{", "{{b}} {{"),
            ("{{ {{a}}", "{{ {{b}}N"),
            ("{{a", "{{a"),
            ("}}{{a}}}}", "}}{{b}}N}}"),
            ("ü{{a}}ü", "ü{{b}}Nü"),
        ] {
            assert_eq!(Template::cut(source, known).render(|_, out| out.push('N')), expected, "{source}");
        }
    }

    #[test]
    fn hostile_text_stays_text_in_html() {
        assert_eq!(html(r#"</h1><img src=x onerror='a'>&"x""#), "&lt;/h1&gt;&lt;img src=x onerror=&#39;a&#39;&gt;&amp;&quot;x&quot;");
    }

    #[test]
    fn json_can_not_leave_its_script_element_and_reads_back() {
        for text in ["</script><script>alert(1)</script>", "<!--<script>", "a\u{2028}b\u{2029}c", "\"\\\n\0", "]]>&amp;", "München"] {
            let written = json(text);
            assert!(!written.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\n']), "{written}");
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
    }
}
