//! The operator's look: a logo as a `data:` URL, and one accent colour that stays legible.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a logo at most: it travels in every page.
pub(super) const MAX_LOGO: u64 = 256 * 1024;

/// The media type of an image, by its content: a file's name proves nothing.
pub(super) fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ if is_svg(bytes) => Some("image/svg+xml"),
        _ => None,
    }
}

/// Whether the first element is `svg`, after a byte order mark, declarations and comments.
fn is_svg(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let end = match rest {
            _ if rest.starts_with("<?") => "?>",
            _ if rest.starts_with("<!--") => "-->",
            _ if rest.starts_with("<!") => ">",
            _ => break,
        };
        let Some(at) = rest.find(end) else { return false };
        rest = rest[at + end.len()..].trim_start();
    }
    rest.strip_prefix("<svg").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/'))
}

/// The image as a `data:` URL (RFC 2397).
pub(super) fn data_url(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}

/// An opaque colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Color([u8; 3]);

impl Color {
    pub(super) const WHITE: Self = Self([255; 3]);
    pub(super) const INK: Self = Self([0x16, 0x1a, 0x21]);
    /// The card in the dark, as in `style.css`.
    pub(super) const NIGHT: Self = Self([0x1a, 0x1e, 0x26]);

    /// `#rgb` or `#rrggbb`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#')?;
        let nibbles: Vec<u8> = digits.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
        match nibbles[..] {
            [r, g, b] => Some(Self([r * 17, g * 17, b * 17])),
            [r, r2, g, g2, b, b2] => Some(Self([r * 16 + r2, g * 16 + g2, b * 16 + b2])),
            _ => None,
        }
    }

    /// Relative luminance (WCAG 2.2).
    fn luminance(self) -> f64 {
        let [r, g, b] = self.0.map(|channel| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { to_the_2_4((c + 0.055) / 1.055) }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// Contrast ratio (WCAG 2.2), 1 to 21.
    pub(super) fn contrast(self, other: Self) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// White or ink: what is read better on this colour.
    pub(super) fn text(self) -> Self {
        if self.contrast(Self::WHITE) >= self.contrast(Self::INK) { Self::WHITE } else { Self::INK }
    }

    /// This colour, moved towards `end` in sixteenths until it stands out from `ground` (4.5 to 1).
    pub(super) fn legible_on(self, ground: Self, end: Self) -> Self {
        (0..=16_u16).map(|step| self.mix(end, step)).find(|color| color.contrast(ground) >= 4.5).unwrap_or(end)
    }

    fn mix(self, other: Self, sixteenths: u16) -> Self {
        Self(std::array::from_fn(|i| {
            let mixed = (u16::from(self.0[i]) * (16 - sixteenths) + u16::from(other.0[i]) * sixteenths) / 16;
            u8::try_from(mixed).expect("between two bytes")
        }))
    }
}

/// `x` to the power of 2.4, for `x` between 0 and 1. `powf` would have every start load a library of mathematics, half a
/// megabyte, for this alone.
fn to_the_2_4(x: f64) -> f64 {
    // By Newton's method from above, where it converges without fail.
    let mut fifth_root = 1.0;
    for _ in 0..40 {
        let fourth = fifth_root * fifth_root * fifth_root * fifth_root;
        fifth_root -= (fourth * fifth_root - x) / (5.0 * fourth);
    }
    x * x * fifth_root * fifth_root
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r, g, b] = self.0;
        write!(f, "#{r:02x}{g:02x}{b:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_content() {
        for (bytes, expected) in [
            (b"\x89PNG\r\n\x1a\n...".as_slice(), Some("image/png")),
            (b"\xff\xd8\xff\xe0..JFIF", Some("image/jpeg")),
            (b"GIF87a..", Some("image/gif")),
            (b"GIF89a..", Some("image/gif")),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Some("image/svg+xml")),
            (b"\xef\xbb\xbf <?xml version='1.0'?>\n<!-- a > b --><!DOCTYPE svg PUBLIC 'x'>\n<svg>", Some("image/svg+xml")),
            (b"<svgx>", None),
            (b"<html><svg></svg></html>", None),
            (b"<!-- <svg>", None),
            (b"RIFF\x10\0\0\0WAVEfmt ", None),
            (b"GIF88a", None),
            (b"BM......", None),
            (b"\xff\xd8", None),
            (b"", None),
        ] {
            assert_eq!(media_type(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn colours_are_hex_only() {
        for (text, expected) in [("#1a2b3c", Some("#1a2b3c")), ("#FA0", Some("#ffaa00")), ("#000", Some("#000000"))] {
            assert_eq!(Color::parse(text).map(|c| c.to_string()).as_deref(), expected, "{text}");
        }
        for text in ["", "#", "red", "#12", "#1234", "#12345g", "#1234567", "1a2b3c", "#fff;}", "#üü"] {
            assert_eq!(Color::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_power_is_what_the_library_says() {
        for byte in 1..=255_u8 {
            let x = (f64::from(byte) / 255.0 + 0.055) / 1.055;
            assert!((to_the_2_4(x) - x.powf(2.4)).abs() < 1e-12, "{x}");
        }
    }

    #[test]
    fn accents_stay_legible() {
        for accent in ["#000", "#fff", "#ffd500", "#0b57d0", "#c8102e", "#777777", "#1a1e26", "#7fffd4"] {
            let accent = Color::parse(accent).unwrap();
            assert!(accent.contrast(accent.text()) >= 4.4, "{accent}: text on the button");
            assert!(accent.legible_on(Color::WHITE, Color::INK).contrast(Color::WHITE) >= 4.5, "{accent}: by day");
            assert!(accent.legible_on(Color::NIGHT, Color::WHITE).contrast(Color::NIGHT) >= 4.5, "{accent}: by night");
        }
        let blue = Color::parse("#0b57d0").unwrap();
        assert_eq!(blue.legible_on(Color::WHITE, Color::INK), blue, "a legible colour stays what it is");
    }
}
