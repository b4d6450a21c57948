//! Where the dev proxy's bar goes into a page: at the start of its head, before anything of the page's own
//! is looked at.

/// Bytes that are looked through at most; a page with more in front of its head gets the bar there.
const FAR_ENOUGH: usize = 64 * 1024;

/// The offset at which elements of the head can be put in: behind `<head …>`, or where the page begins
/// without one, which makes the parser open it (HTML §13.2.6.4.3). `None` when that depends on bytes that
/// are still to come.
pub(super) fn insertion(page: &[u8], whole: bool) -> Option<usize> {
    let mut at = usize::from(page.starts_with(b"\xef\xbb\xbf")) * 3;
    let settled = whole || page.len() >= FAR_ENOUGH;
    loop {
        at += page[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let rest = &page[at..];
        let end = if rest.starts_with(b"<!--") {
            find(rest, b"-->").map(|end| end + 3)
        } else if rest.starts_with(b"<!") || rest.starts_with(b"<?") {
            find(rest, b">").map(|end| end + 1)
        } else if is_tag(rest, b"html") {
            tag_end(rest)
        } else if is_tag(rest, b"head") {
            return tag_end(rest).map(|end| at + end).or_else(|| settled.then_some(at));
        } else if rest.len() < b"<head>".len() && !settled {
            None
        } else {
            return Some(at);
        };
        match end {
            Some(end) => at += end,
            None => return settled.then_some(at),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn is_tag(bytes: &[u8], name: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(b"<") else { return false };
    let named = rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    named && rest.get(name.len()).is_some_and(|byte| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/'))
}

/// The end of a start tag; a `>` in a quoted value is none.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, &byte) in tag.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(page: &str) -> String {
        let at = insertion(page.as_bytes(), true).unwrap();
        format!("{}|{}", &page[..at], &page[at..])
    }

    #[test]
    fn the_bar_stands_first_in_the_head() {
        for (page, expected) in [
            ("<!doctype html><html lang=en><head><title>x", "<!doctype html><html lang=en><head>|<title>x"),
            ("<!DOCTYPE html>\n<HTML>\n<HEAD data-x=\"a>b\">\n<base>", "<!DOCTYPE html>\n<HTML>\n<HEAD data-x=\"a>b\">|\n<base>"),
            ("\u{feff}<head>x", "\u{feff}<head>|x"),
            ("<!-- <head> --><html><!-- y --><head>", "<!-- <head> --><html><!-- y --><head>|"),
            (
                "<?xml version=\"1.0\"?><!DOCTYPE html><html xmlns='x>y'><head/>",
                "<?xml version=\"1.0\"?><!DOCTYPE html><html xmlns='x>y'><head/>|",
            ),
            // No head: the parser makes one.
            ("<!doctype html><title>x</title>", "<!doctype html>|<title>x</title>"),
            ("<header><head>", "|<header><head>"),
            ("<html><body>x", "<html>|<body>x"),
            ("just text", "|just text"),
            ("", "|"),
            ("<!doctype html", "|<!doctype html"),
            ("<head", "|<head"),
        ] {
            assert_eq!(marked(page), expected, "{page}");
        }
    }

    #[test]
    fn it_waits_for_what_decides_and_gives_the_same_answer_piece_by_piece() {
        let page = "<!doctype html><!-- c --><html lang='a>b'> <head data-x='>'><title>x</title>";
        let whole = insertion(page.as_bytes(), true);
        for end in 0..=page.len() {
            let at = insertion(&page.as_bytes()[..end], false);
            assert!(at.is_none() || at == whole, "{end}: {at:?}");
        }
        assert_eq!(insertion(page.as_bytes(), false), whole);
        let endless = format!("<!-- {}", "x".repeat(FAR_ENOUGH));
        assert_eq!(insertion(endless.as_bytes(), false), Some(0));
    }
}
