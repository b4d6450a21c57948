//! Whether somebody who asks would rather read HTML or JSON (RFC 9110 §12.5.1).

use http::HeaderValue;

/// What an error is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people: only where `text/html` or `text/*` is named.
    Html,
    /// For programs, and where nothing is said.
    Json,
}

/// How much one of our two types is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Want {
    /// 0 is nothing, 1 `*/*`, 2 `text/*`, 3 the type itself: the most specific range counts.
    specific: u8,
    /// In thousandths.
    weight: u16,
    /// Its place in the header.
    place: usize,
}

impl Form {
    /// What `Accept` asks for. Browsers' page loads get HTML; `*/*`, as of `fetch` and curl, gets JSON.
    /// Of two equally wanted types the one that is named closer, then the one named first, wins.
    pub(crate) fn wanted(accept: Option<&HeaderValue>) -> Self {
        let Some(accept) = accept.and_then(|value| value.to_str().ok()) else { return Self::Json };
        let (mut html, mut json) = (Want::default(), Want::default());
        for (place, range) in split(accept, ',').enumerate() {
            let mut parts = split(range, ';');
            let media = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
            let Some(weight) = weight(parts) else { continue };
            let (for_html, for_json) = match media.as_str() {
                "text/html" => (3, 0),
                "text/*" => (2, 0),
                "application/json" => (0, 3),
                "application/*" => (0, 2),
                "*/*" => (1, 1),
                _ => continue,
            };
            for (want, specific) in [(&mut html, for_html), (&mut json, for_json)] {
                if specific > want.specific {
                    *want = Want { specific, weight, place };
                }
            }
        }
        let named = html.specific > 1 && html.weight > 0;
        let first =
            (html.weight, html.specific, std::cmp::Reverse(html.place)) > (json.weight, json.specific, std::cmp::Reverse(json.place));
        if named && first { Self::Html } else { Self::Json }
    }
}

/// Splits at `at` outside of quoted strings.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c: char| {
        let skip = std::mem::replace(&mut escaped, false);
        match c {
            _ if skip => {}
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == at && !quoted,
        }
        false
    })
}

/// The weight among a range's parameters, in thousandths; 1 where there is none, `None` where it is no
/// weight.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Option<u16> {
    let Some(value) = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    }) else {
        return Some(1000);
    };
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_for_people_and_json_for_programs() {
        use Form::{Html, Json};
        for (accept, expected) in [
            // Browsers, loading a page or a frame.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", Html),
            ("text/html, application/xhtml+xml, image/jxr, */*", Html),
            ("text/html", Html),
            ("TEXT/HTML;Q=0.1", Html),
            ("text/*", Html),
            ("text/html;charset=utf-8", Html),
            // Programs.
            ("*/*", Json),
            ("", Json),
            ("application/json", Json),
            ("application/json, text/plain, */*", Json),
            ("application/json, text/javascript, */*; q=0.01", Json),
            ("image/avif,image/webp,*/*;q=0.8", Json),
            ("text/plain", Json),
            // Both are named: the weights decide.
            ("text/html;q=0.5, application/json", Json),
            ("text/html, application/json;q=0.9", Html),
            ("application/json;q=0.9, text/html", Html),
            ("application/json;q=0.123, text/html;q=0.124", Html),
            ("text/html;q=0.1, */*;q=0.9", Json),
            ("text/html;q=0.9, */*;q=0.1", Html),
            // As much of both: the closer name, then the first.
            ("text/*, application/json", Json),
            ("text/html, application/*", Html),
            ("text/html, */*", Html),
            ("application/json, text/html", Json),
            ("text/html, application/json", Html),
            // Zero is a no, and the closer range counts, wherever it stands.
            ("text/html;q=0", Json),
            ("text/*, text/html;q=0", Json),
            ("text/html;q=0, text/*", Json),
            ("text/html;q=0.000, application/json;q=0", Json),
            ("application/json;q=0, text/html;q=0.001", Html),
            // Not a weight: the range does not count.
            ("text/html;q=2", Json),
            ("text/html;q=1.001", Json),
            ("text/html;q=", Json),
            ("text/html;q=0.1234", Json),
            ("text/html;q=-1, text/*;q=0.2", Html),
            ("text/html;q=1.000", Html),
            ("text/html ; q = 0.7 , application/json;q=0.6", Html),
            // A quoted comma parts nothing.
            (r#"text/plain;x="a, text/html", application/json"#, Json),
            (r#"text/plain;x="\", text/html;q=1", application/json;q=0.1"#, Json),
            (r#"text/html;x="q=0;,";q=0.8, application/json;q=0.5"#, Html),
            (",,;,text/html,,", Html),
        ] {
            let value = HeaderValue::from_str(accept).unwrap();
            assert_eq!(Form::wanted(Some(&value)), expected, "{accept}");
        }
        assert_eq!(Form::wanted(None), Json);
        assert_eq!(Form::wanted(Some(&HeaderValue::from_bytes(b"text/html\xff").unwrap())), Json);
    }
}
