//! Typefaces: which face sets a character, how wide a text is, and where its glyphs stand.
//!
//! Noto Sans is embedded (Latin, Greek, Cyrillic, Vietnamese). A character it does not have is taken from the additional
//! face, when the operator gave one; a character that no face has is set as its code point, `U+4E2D`, so that nothing
//! on an invoice is ever an empty box.

use std::sync::Arc;

use krilla::text::{Font, GlyphId, KrillaGlyph};
use thiserror::Error;

/// Regular or bold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    Regular,
    Bold,
}

/// The bytes are no TrueType or OpenType font.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the additional typeface is no TrueType or OpenType font")]
pub struct NotATypeface;

/// The faces an invoice is set in.
pub struct Typefaces {
    regular: Face,
    bold: Face,
    additional: Option<Face>,
}

struct Face {
    font: Font,
    bytes: FaceBytes,
}

enum FaceBytes {
    /// Parsed once.
    Embedded(Box<rustybuzz::Face<'static>>),
    /// Parsed for each run: rare.
    Given(Arc<Vec<u8>>),
}

/// A stretch of text in one face.
pub(crate) struct Run {
    pub(crate) font: Font,
    pub(crate) text: String,
    pub(crate) glyphs: Vec<KrillaGlyph>,
    /// Its width at a size of one point.
    pub(crate) width: f32,
}

/// A text that is shaped and measured, ready to be drawn at any size.
pub(crate) struct Shaped {
    pub(crate) runs: Vec<Run>,
}

impl Shaped {
    /// The width in points at a size in points.
    pub(crate) fn width(&self, size: f32) -> f32 {
        self.runs.iter().map(|run| run.width).sum::<f32>() * size
    }
}

impl Typefaces {
    /// The embedded faces.
    pub fn embedded() -> Self {
        Self {
            regular: Face::embedded(notosans::REGULAR_TTF),
            bold: Face::embedded(notosans::BOLD_TTF),
            additional: None,
        }
    }

    /// The embedded faces, and one more for the characters they do not have: the bytes of a `.ttf` or `.otf` file.
    pub fn with_additional(bytes: Vec<u8>) -> Result<Self, NotATypeface> {
        let bytes = Arc::new(bytes);
        rustybuzz::Face::from_slice(&bytes, 0).ok_or(NotATypeface)?;
        let font = Font::new(bytes.to_vec().into(), 0).ok_or(NotATypeface)?;
        Ok(Self { additional: Some(Face { font, bytes: FaceBytes::Given(bytes) }), ..Self::embedded() })
    }

    /// Shapes one line of text. Control characters, line ends among them, are set as spaces.
    pub(crate) fn shape(&self, text: &str, weight: Weight) -> Shaped {
        let first = match weight {
            Weight::Regular => &self.regular,
            Weight::Bold => &self.bold,
        };
        let mut stretches: Vec<(&Face, String)> = Vec::new();
        for character in text.chars() {
            let character = if character.is_control() { ' ' } else { character };
            let mut bytes = [0; 4];
            let found = [Some(first), self.additional.as_ref()].into_iter().flatten().find(|face| face.has(character));
            let code_point;
            let (face, piece) = match found {
                Some(face) => (face, &*character.encode_utf8(&mut bytes)),
                None => {
                    code_point = format!("U+{:04X}", u32::from(character));
                    (first, code_point.as_str())
                }
            };
            match stretches.last_mut() {
                Some((last, text)) if std::ptr::eq(*last, face) => text.push_str(piece),
                _ => stretches.push((face, piece.to_owned())),
            }
        }
        Shaped { runs: stretches.into_iter().map(|(face, text)| face.shape(text)).collect() }
    }

    /// The width in points of one line.
    pub(crate) fn width(&self, text: &str, weight: Weight, size: f32) -> f32 {
        self.shape(text, weight).width(size)
    }

    /// Breaks a text into lines of at most `width` points, at spaces where there are any, else inside a word.
    pub(crate) fn wrap(&self, text: &str, weight: Weight, size: f32, width: f32) -> Vec<String> {
        let mut lines = Vec::new();
        for paragraph in text.lines() {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
                if self.width(&longer, weight, size) <= width {
                    line = longer;
                    continue;
                }
                if !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                for character in word.chars() {
                    line.push(character);
                    if self.width(&line, weight, size) > width && line.chars().count() > 1 {
                        line.pop();
                        lines.push(std::mem::replace(&mut line, character.to_string()));
                    }
                }
            }
            if !line.is_empty() {
                lines.push(line);
            }
        }
        lines
    }
}

impl Face {
    fn embedded(bytes: &'static [u8]) -> Self {
        let font = Font::new(bytes.into(), 0).expect("the embedded typeface is one");
        let face = rustybuzz::Face::from_slice(bytes, 0).expect("the embedded typeface is one");
        Self { font, bytes: FaceBytes::Embedded(Box::new(face)) }
    }

    fn with<T>(&self, read: impl FnOnce(&rustybuzz::Face<'_>) -> T) -> T {
        match &self.bytes {
            FaceBytes::Embedded(face) => read(face),
            FaceBytes::Given(bytes) => {
                read(&rustybuzz::Face::from_slice(bytes, 0).expect("it was read when it was given"))
            }
        }
    }

    fn has(&self, character: char) -> bool {
        self.with(|face| face.glyph_index(character).is_some())
    }

    fn shape(&self, text: String) -> Run {
        let mut buffer = rustybuzz::UnicodeBuffer::new();
        buffer.push_str(&text);
        buffer.guess_segment_properties();
        let (shaped, units) =
            self.with(|face| (rustybuzz::shape(face, &[], buffer), f32::from(face.units_per_em() as u16)));
        let (positions, placed) = (shaped.glyph_positions(), shaped.glyph_infos());
        // A cluster ends where the next larger one begins, whatever the writing direction.
        let mut starts: Vec<usize> = placed.iter().map(|glyph| glyph.cluster as usize).collect();
        starts.sort_unstable();
        starts.dedup();
        let end_of = |start: usize| {
            let next = starts.partition_point(|&other| other <= start);
            starts.get(next).copied().unwrap_or(text.len())
        };
        let glyphs: Vec<KrillaGlyph> = positions
            .iter()
            .zip(placed)
            .map(|(position, glyph)| {
                let start = glyph.cluster as usize;
                KrillaGlyph::new(
                    GlyphId::new(glyph.glyph_id),
                    position.x_advance as f32 / units,
                    position.x_offset as f32 / units,
                    position.y_offset as f32 / units,
                    position.y_advance as f32 / units,
                    start..end_of(start),
                    None,
                )
            })
            .collect();
        let width = positions.iter().map(|position| position.x_advance as f32).sum::<f32>() / units;
        Run { font: self.font.clone(), text, glyphs, width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_no_face_has_is_set_as_its_code_point() {
        let shaped = Typefaces::embedded().shape("Zoë 中", Weight::Regular);
        let text: String = shaped.runs.iter().map(|run| run.text.as_str()).collect();
        assert_eq!(text, "Zoë U+4E2D");
    }

    #[test]
    fn digits_have_one_width_so_that_columns_align() {
        let faces = Typefaces::embedded();
        for weight in [Weight::Regular, Weight::Bold] {
            let widths: Vec<f32> = (0..10).map(|digit| faces.width(&digit.to_string(), weight, 9.0)).collect();
            assert!(widths.iter().all(|width| (width - widths[0]).abs() < 0.001), "{widths:?}");
        }
    }

    #[test]
    fn text_breaks_at_spaces_and_a_word_too_long_breaks_inside() {
        let faces = Typefaces::embedded();
        let lines = faces.wrap(
            "one two three\nfour",
            Weight::Regular,
            10.0,
            faces.width("one two", Weight::Regular, 10.0) + 0.1,
        );
        assert_eq!(lines, ["one two", "three", "four"]);
        let lines = faces.wrap("abcdefgh", Weight::Regular, 10.0, faces.width("abc", Weight::Regular, 10.0) + 0.1);
        assert_eq!(lines.concat(), "abcdefgh");
        assert!(lines.len() > 1);
    }

    #[test]
    fn what_is_no_typeface_is_refused() {
        assert!(Typefaces::with_additional(b"no font".to_vec()).is_err());
    }
}
