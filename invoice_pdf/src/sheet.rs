//! Sheets: what stands where on the pages, decided before anything is drawn, because a page says how many there are.
//!
//! Distances are points (1/72 inch) from the upper left corner of an A4 page.

use krilla::Document;
use krilla::color::rgb;
use krilla::geom::{PathBuilder, Point, Rect};
use krilla::num::NormalizedF32;
use krilla::page::PageSettings;
use krilla::paint::{Fill, Stroke};
use krilla::surface::Surface;

use crate::typeface::{Shaped, Typefaces, Weight};

/// Width of an A4 page.
pub(crate) const WIDTH: f32 = 595.28;
/// Height of an A4 page.
pub(crate) const HEIGHT: f32 = 841.89;

/// A colour of the document.
#[derive(Clone, Copy)]
pub(crate) struct Ink(pub(crate) u8, pub(crate) u8, pub(crate) u8);

/// How a text is set.
#[derive(Clone, Copy)]
pub(crate) struct Set {
    pub(crate) weight: Weight,
    pub(crate) size: f32,
    pub(crate) ink: Ink,
}

/// Which point of the text its place names.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Left,
    Right,
}

enum Mark {
    Text { x: f32, baseline: f32, shaped: Shaped, size: f32, ink: Ink },
    Rule { from: f32, to: f32, y: f32, weight: f32, ink: Ink },
    Area { x: f32, y: f32, width: f32, height: f32, ink: Ink },
    Polygon { points: Vec<(f32, f32)>, ink: Ink },
}

/// One page.
#[derive(Default)]
pub(crate) struct Sheet {
    marks: Vec<Mark>,
}

impl Sheet {
    /// Sets one line of text; `baseline` is where its letters stand.
    pub(crate) fn text(&mut self, faces: &Typefaces, text: &str, set: Set, anchor: Anchor, x: f32, baseline: f32) {
        let shaped = faces.shape(text, set.weight);
        let x = match anchor {
            Anchor::Left => x,
            Anchor::Right => x - shaped.width(set.size),
        };
        self.marks.push(Mark::Text { x, baseline, shaped, size: set.size, ink: set.ink });
    }

    /// Draws a horizontal rule.
    pub(crate) fn rule(&mut self, from: f32, to: f32, y: f32, weight: f32, ink: Ink) {
        self.marks.push(Mark::Rule { from, to, y, weight, ink });
    }

    /// Fills a rectangle.
    pub(crate) fn area(&mut self, x: f32, y: f32, width: f32, height: f32, ink: Ink) {
        self.marks.push(Mark::Area { x, y, width, height, ink });
    }

    /// Fills a polygon.
    pub(crate) fn polygon(&mut self, points: Vec<(f32, f32)>, ink: Ink) {
        self.marks.push(Mark::Polygon { points, ink });
    }

    /// Draws everything on a new page.
    pub(crate) fn draw(&self, document: &mut Document) {
        let settings = PageSettings::from_wh(WIDTH, HEIGHT).expect("a page of A4 has a size");
        let mut page = document.start_page_with(settings);
        let mut surface = page.surface();
        for mark in &self.marks {
            mark.draw(&mut surface);
        }
        surface.finish();
        page.finish();
    }
}

impl Mark {
    fn draw(&self, surface: &mut Surface<'_>) {
        match self {
            Self::Text { x, baseline, shaped, size, ink } => {
                surface.set_fill(Some(ink.fill()));
                surface.set_stroke(None);
                let mut x = *x;
                for run in &shaped.runs {
                    let start = Point::from_xy(x, *baseline);
                    surface.draw_glyphs(start, &run.glyphs, run.font.clone(), &run.text, *size, false);
                    x += run.width * size;
                }
            }
            Self::Rule { from, to, y, weight, ink } => {
                let mut path = PathBuilder::new();
                path.move_to(*from, *y);
                path.line_to(*to, *y);
                surface.set_fill(None);
                surface.set_stroke(Some(Stroke { paint: ink.color().into(), width: *weight, ..Stroke::default() }));
                if let Some(path) = path.finish() {
                    surface.draw_path(&path);
                }
            }
            Self::Area { x, y, width, height, ink } => {
                let mut path = PathBuilder::new();
                if let Some(area) = Rect::from_xywh(*x, *y, *width, *height) {
                    path.push_rect(area);
                }
                fill(surface, path, *ink);
            }
            Self::Polygon { points, ink } => {
                let mut path = PathBuilder::new();
                if let Some(((x, y), rest)) = points.split_first() {
                    path.move_to(*x, *y);
                    for (x, y) in rest {
                        path.line_to(*x, *y);
                    }
                    path.close();
                }
                fill(surface, path, *ink);
            }
        }
    }
}

fn fill(surface: &mut Surface<'_>, path: PathBuilder, ink: Ink) {
    surface.set_stroke(None);
    surface.set_fill(Some(ink.fill()));
    // An empty path has nothing to fill.
    if let Some(path) = path.finish() {
        surface.draw_path(&path);
    }
}

impl Ink {
    fn color(self) -> rgb::Color {
        rgb::Color::new(self.0, self.1, self.2)
    }

    fn fill(self) -> Fill {
        Fill { paint: self.color().into(), opacity: NormalizedF32::ONE, ..Fill::default() }
    }
}
