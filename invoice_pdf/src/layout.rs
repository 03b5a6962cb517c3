//! The layout: content flows down the pages, the table's head stands again on each, and sums are never parted from the
//! last line.

use billing::{Party, Presentation, PresentedDetail, PresentedLine, PresentedSum, PresentedTax};

use crate::content::Content;
use crate::sheet::{Anchor, HEIGHT, Ink, Set, Sheet, WIDTH};
use crate::typeface::{Typefaces, Weight};

const LEFT: f32 = 48.0;
const RIGHT: f32 = WIDTH - 48.0;
const TOP: f32 = 48.0;
/// Nothing but the footer stands below.
const BOTTOM: f32 = HEIGHT - 66.0;

const BLACK: Ink = Ink(24, 28, 36);
const GREY: Ink = Ink(98, 106, 120);
const PALE: Ink = Ink(214, 219, 227);
const SHADE: Ink = Ink(243, 245, 248);
const WARNING: Ink = Ink(176, 72, 16);
const BRAND: Ink = Ink(18, 84, 136);
const BRAND_LIGHT: Ink = Ink(64, 156, 206);

const BODY: Set = Set { weight: Weight::Regular, size: 8.5, ink: BLACK };
const STRONG: Set = Set { weight: Weight::Bold, size: 8.5, ink: BLACK };
const LABEL: Set = Set { weight: Weight::Bold, size: 7.0, ink: GREY };
const SMALL: Set = Set { weight: Weight::Regular, size: 7.0, ink: GREY };
const TITLE: Set = Set { weight: Weight::Bold, size: 20.0, ink: BRAND };
const DUE: Set = Set { weight: Weight::Bold, size: 11.0, ink: BLACK };
/// From one line's baseline to the next.
const LEADING: f32 = 12.0;
const SMALL_LEADING: f32 = 9.6;

/// A column of the table: where its text is anchored, and how wide it may be.
struct Column {
    title: &'static str,
    anchor: Anchor,
    x: f32,
    width: f32,
}

const POSITION: Column = Column { title: "#", anchor: Anchor::Left, x: LEFT + 4.0, width: 16.0 };
const DESCRIPTION: Column = Column { title: "Description", anchor: Anchor::Left, x: LEFT + 22.0, width: 198.0 };
const QUANTITY: Column = Column { title: "Quantity", anchor: Anchor::Right, x: LEFT + 306.0, width: 84.0 };
const UNIT: Column = Column { title: "Unit", anchor: Anchor::Left, x: LEFT + 314.0, width: 56.0 };
const UNIT_PRICE: Column = Column { title: "Unit price", anchor: Anchor::Right, x: LEFT + 430.0, width: 60.0 };
const AMOUNT: Column = Column { title: "Amount", anchor: Anchor::Right, x: RIGHT - 4.0, width: 64.0 };

/// Lays a document out.
pub(crate) fn lay_out(faces: &Typefaces, content: &Content) -> Vec<Sheet> {
    let mut flow = Flow { faces, sheets: vec![Sheet::default()], y: TOP };
    let presentation = &content.presentation;
    flow.head(presentation);
    flow.parties(presentation);
    flow.table(&presentation.rows);
    flow.sums(&presentation.sums);
    flow.taxes(&presentation.taxes);
    for adjustment in &presentation.adjustments {
        flow.heading(&adjustment.heading);
        flow.table(&adjustment.rows);
        flow.sums(&adjustment.sums);
    }
    flow.notes(presentation);
    let count = flow.sheets.len();
    if !content.is_numbered {
        for sheet in &mut flow.sheets {
            let set = Set { weight: Weight::Bold, size: 9.0, ink: Ink(255, 255, 255) };
            sheet.area(0.0, 0.0, WIDTH, 24.0, WARNING);
            sheet.text(faces, "PREVIEW: not an invoice, nothing is due", set, Anchor::Left, LEFT, 16.0);
        }
    }
    for (number, sheet) in (1..).zip(&mut flow.sheets) {
        foot(faces, sheet, content, number, count);
    }
    flow.sheets
}

struct Flow<'a> {
    faces: &'a Typefaces,
    sheets: Vec<Sheet>,
    /// Everything above is taken.
    y: f32,
}

impl Flow<'_> {
    fn sheet(&mut self) -> &mut Sheet {
        self.sheets.last_mut().expect("there is a first sheet")
    }

    fn text(&mut self, text: &str, set: Set, anchor: Anchor, x: f32, baseline: f32) {
        let faces = self.faces;
        self.sheet().text(faces, text, set, anchor, x, baseline);
    }

    fn next_sheet(&mut self) {
        self.sheets.push(Sheet::default());
        self.y = TOP;
    }

    /// Goes to the next page unless so much room is left; true when it did.
    fn room(&mut self, height: f32) -> bool {
        let full = self.y + height > BOTTOM;
        if full {
            self.next_sheet();
        }
        full
    }

    /// Wrapped lines from the present place on; gives back where they end.
    fn lines(&mut self, text: &str, set: Set, x: f32, width: f32, top: f32, leading: f32) -> f32 {
        let mut y = top;
        for line in self.faces.wrap(text, set.weight, set.size, width) {
            y += leading;
            self.text(&line, set, Anchor::Left, x, y);
        }
        y
    }

    /// The seller's mark and name, the title and the number.
    fn head(&mut self, presentation: &Presentation) {
        let top = self.y;
        mark(self.sheet(), LEFT, top);
        let set = Set { weight: Weight::Bold, size: 13.0, ink: BLACK };
        let mut name = self.faces.wrap(&presentation.seller.name, set.weight, set.size, 230.0);
        name.truncate(2);
        for (line, baseline) in name.iter().zip([top + 20.0, top + 34.0]) {
            self.text(line, set, Anchor::Left, LEFT + 38.0, baseline);
        }
        self.text(&presentation.title.to_uppercase(), TITLE, Anchor::Right, RIGHT, top + 18.0);
        let number = Set { size: 10.0, ..STRONG };
        self.text(&presentation.number, number, Anchor::Right, RIGHT, top + 34.0);
        self.y = top + 54.0;
        let y = self.y;
        self.sheet().rule(LEFT, RIGHT, y, 1.2, BRAND);
    }

    /// Who bills, who is billed, and the facts of the document, side by side.
    fn parties(&mut self, presentation: &Presentation) {
        let top = self.y + 10.0;
        let mut low = top;
        let parties: [(&str, &Party, f32); 2] =
            [("FROM", &presentation.seller, LEFT), ("BILLED TO", &presentation.buyer, LEFT + 160.0)];
        for (label, party, x) in parties {
            self.text(label, LABEL, Anchor::Left, x, top + LEADING);
            let mut y = self.lines(&party.name, STRONG, x, 148.0, top + LEADING, LEADING);
            y = self.lines(&party.address, BODY, x, 148.0, y, LEADING);
            if !party.tax_id.is_empty() {
                y = self.lines(&format!("Tax id {}", party.tax_id), BODY, x, 148.0, y, LEADING);
            }
            low = low.max(y);
        }
        let (x, mut y) = (LEFT + 322.0, top);
        for (name, value) in &presentation.facts {
            y += LEADING;
            self.text(name, Set { size: 7.5, ..LABEL }, Anchor::Left, x, y);
            y = self.lines(value, BODY, x + 62.0, RIGHT - x - 62.0, y - LEADING, LEADING);
        }
        self.y = low.max(y) + 20.0;
    }

    fn table_head(&mut self) {
        let y = self.y;
        self.sheet().area(LEFT, y, RIGHT - LEFT, 18.0, SHADE);
        for column in [&POSITION, &DESCRIPTION, &QUANTITY, &UNIT, &UNIT_PRICE, &AMOUNT] {
            self.text(column.title, LABEL, column.anchor, column.x, y + 12.0);
        }
        self.y += 20.0;
    }

    fn table(&mut self, rows: &[PresentedLine]) {
        self.room(18.0 + 4.0 * LEADING);
        self.table_head();
        for row in rows {
            let description = self.faces.wrap(&row.description, BODY.weight, BODY.size, DESCRIPTION.width);
            let details: Vec<(Vec<String>, &PresentedDetail)> = row
                .details
                .iter()
                .map(|detail| {
                    (self.faces.wrap(&detail.words, SMALL.weight, SMALL.size, DESCRIPTION.width - 8.0), detail)
                })
                .collect();
            let detail_lines: usize = details.iter().map(|(words, _)| words.len().max(1)).sum();
            let unit = self.faces.wrap(&row.unit, BODY.weight, BODY.size, UNIT.width);
            let lines = description.len().max(unit.len()).max(1);
            let height = lines as f32 * LEADING + detail_lines as f32 * SMALL_LEADING + 6.0;
            if self.room(height) {
                self.table_head();
            }
            let first = self.y + LEADING - 1.0;
            self.text(&row.position, Set { ink: GREY, ..BODY }, POSITION.anchor, POSITION.x, first);
            for (column, cell) in [(&QUANTITY, &row.quantity), (&UNIT_PRICE, &row.unit_price), (&AMOUNT, &row.amount)] {
                let set = self.fitting(cell, BODY, column.width);
                self.text(cell, set, column.anchor, column.x, first);
            }
            for (column, cells) in [(&DESCRIPTION, &description), (&UNIT, &unit)] {
                let mut baseline = first;
                for cell in cells {
                    self.text(cell, BODY, column.anchor, column.x, baseline);
                    baseline += LEADING;
                }
            }
            let mut baseline = first + (lines as f32 - 1.0) * LEADING;
            for (words, detail) in &details {
                let first = baseline + SMALL_LEADING;
                for cell in [(&QUANTITY, &detail.quantity), (&UNIT_PRICE, &detail.price)] {
                    let set = self.fitting(cell.1, SMALL, cell.0.width);
                    self.text(cell.1, set, cell.0.anchor, cell.0.x, first);
                }
                for line in words {
                    baseline += SMALL_LEADING;
                    self.text(line, SMALL, DESCRIPTION.anchor, DESCRIPTION.x + 8.0, baseline);
                }
            }
            self.y += height;
            let y = self.y;
            self.sheet().rule(LEFT, RIGHT, y, 0.4, PALE);
        }
    }

    /// A smaller size for a number too long for its column, so that no digit is ever cut.
    fn fitting(&self, text: &str, set: Set, width: f32) -> Set {
        let natural = self.faces.width(text, set.weight, set.size);
        if natural <= width { set } else { Set { size: set.size * width / natural, ..set } }
    }

    fn sums(&mut self, sums: &[PresentedSum]) {
        let height: f32 = sums.iter().map(|sum| if sum.is_strong { 22.0 } else { 14.0 }).sum();
        self.room(height.min(BOTTOM - TOP) + 10.0);
        self.y += 8.0;
        let from = LEFT + 250.0;
        for sum in sums {
            if self.room(22.0) {
                self.y += 4.0;
            }
            if sum.is_strong {
                let y = self.y + 3.0;
                self.sheet().area(from - 8.0, y, RIGHT - from + 8.0, 18.0, SHADE);
                self.text(&sum.name, DUE, Anchor::Left, from, y + 13.0);
                self.text(&sum.amount, DUE, Anchor::Right, AMOUNT.x, y + 13.0);
                self.y += 22.0;
            } else {
                let y = self.y + LEADING - 1.0;
                self.text(&sum.amount, BODY, Anchor::Right, AMOUNT.x, y);
                let end = self.lines(&sum.name, BODY, from, 190.0, y - LEADING, LEADING);
                self.y = end + 3.0;
            }
        }
    }

    /// A heading above a table.
    fn heading(&mut self, text: &str) {
        self.room(90.0);
        self.y += 12.0;
        self.y = self.lines(text, STRONG, LEFT, RIGHT - LEFT, self.y, LEADING) + 8.0;
    }

    /// The tax by rate, as tax offices ask for it.
    fn taxes(&mut self, taxes: &[PresentedTax]) {
        if taxes.is_empty() {
            return;
        }
        self.room(30.0 + taxes.len() as f32 * LEADING);
        self.y += 14.0;
        let (x, rate, taxable, tax) = (LEFT, LEFT + 150.0, LEFT + 260.0, LEFT + 350.0);
        let top = self.y;
        self.text("TAX", LABEL, Anchor::Left, x, top);
        self.text("Rate", LABEL, Anchor::Right, rate, top);
        self.text("Taxable amount", LABEL, Anchor::Right, taxable, top);
        self.text("Tax", LABEL, Anchor::Right, tax, top);
        self.sheet().rule(x, tax, top + 4.0, 0.4, PALE);
        self.y += 4.0;
        for row in taxes {
            self.y += LEADING;
            let y = self.y;
            self.text(&row.name, BODY, Anchor::Left, x, y);
            self.text(&row.rate, BODY, Anchor::Right, rate, y);
            self.text(&row.basis, BODY, Anchor::Right, taxable, y);
            self.text(&row.amount, BODY, Anchor::Right, tax, y);
        }
        self.y += 6.0;
    }

    fn notes(&mut self, presentation: &Presentation) {
        self.y += 14.0;
        for note in &presentation.notes {
            let lines = self.faces.wrap(&note.text, SMALL.weight, SMALL.size, RIGHT - LEFT - 96.0);
            self.room((lines.len() as f32).min(40.0) * SMALL_LEADING + 4.0);
            let top = self.y;
            self.text(&note.label.to_uppercase(), LABEL, Anchor::Left, LEFT, top + SMALL_LEADING);
            for line in &lines {
                self.room(SMALL_LEADING);
                self.y += SMALL_LEADING;
                let y = self.y;
                self.text(line, SMALL, Anchor::Left, LEFT + 96.0, y);
            }
            self.y += 4.0;
        }
    }
}

/// The mark beside the seller's name: a shield over a meter's bars.
fn mark(sheet: &mut Sheet, x: f32, y: f32) {
    let shield =
        [(0.0, 3.0), (14.0, 0.0), (28.0, 3.0), (28.0, 19.0), (24.0, 27.0), (14.0, 34.0), (4.0, 27.0), (0.0, 19.0)];
    sheet.polygon(shield.iter().map(|(dx, dy)| (x + dx, y + dy)).collect(), BRAND);
    for (dx, height) in [(6.5, 6.0), (12.0, 11.0), (17.5, 16.0)] {
        sheet.area(x + dx, y + 24.0 - height, 4.0, height, if dx > 17.0 { Ink(255, 255, 255) } else { BRAND_LIGHT });
    }
}

fn foot(faces: &Typefaces, sheet: &mut Sheet, content: &Content, number: usize, count: usize) {
    let y = HEIGHT - 44.0;
    sheet.rule(LEFT, RIGHT, y, 0.4, PALE);
    sheet.text(faces, &content.footer, SMALL, Anchor::Left, LEFT, y + 12.0);
    sheet.text(faces, &format!("Page {number} of {count}"), SMALL, Anchor::Right, RIGHT, y + 12.0);
}
