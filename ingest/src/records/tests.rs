//! Containers, broken structures, hostile input and the work it may take.

use super::*;

/// A store that hands out `step` bytes at a time.
struct Steps<'a>(&'a [u8], usize);

impl Read for Steps<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let step = self.1.min(buffer.len());
        self.0.read(&mut buffer[..step])
    }
}

/// Every piece as text, each fill reading `step` bytes: records as they are, broken stretches as
/// `reason: beginning`.
fn pieces(content: &[u8], step: usize) -> Vec<String> {
    let mut records = Records::new(Inflate::open(Steps(content, step)).unwrap());
    records.read_bytes = step;
    let mut found = Vec::new();
    while let Some(piece) = records.next().unwrap() {
        let (Piece::Record { bytes, offset } | Piece::Broken { bytes, offset, .. }) = piece;
        let begin = usize::try_from(offset).unwrap();
        assert_eq!(&content[begin..begin + bytes.len()], bytes, "the offset names the piece");
        found.push(match piece {
            Piece::Record { .. } => String::from_utf8_lossy(bytes).into_owned(),
            Piece::Broken { reason, .. } => {
                format!("{reason}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]))
            }
        });
        let kept = records.buffer.capacity();
        assert!(kept <= 3 * (RECORD_BYTES_MAX + READ_BYTES.max(step)), "{kept} bytes kept");
    }
    found
}

#[track_caller]
fn check(content: &str, expected: &[&str]) {
    for step in [1, 7, 1 << 20] {
        assert_eq!(pieces(content.as_bytes(), step), expected, "in steps of {step}");
    }
}

#[test]
fn every_container_gives_its_records() {
    check(r#"{"Records":[{"a":1},{"b":[2]}]}"#, &[r#"{"a":1}"#, r#"{"b":[2]}"#]);
    check(
        "{ \"x\": {\"y\":[1]}, \"z\": \"}\", \"n\": -1.5e3, \"Records\" : [ {\"a\":1} , 7, \"t,]\" ] , \"more\": {} }",
        &[r#"{"a":1}"#, "7", r#""t,]""#],
    );
    check(r#"{"\u0052ecords":[{"a":1}]}"#, &[r#"{"a":1}"#]);
    check("[{\"a\":1},\n {\"b\":2}]\n", &[r#"{"a":1}"#, r#"{"b":2}"#]);
    check("{\"a\":1}\r\n{\"b\":2}\n\n{\"c\":3}", &[r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
    check("{\"Records\":[{\"a\":1}]}\n{\"Records\":[{\"b\":2}]}\n{\"Records\":[]}", &[r#"{"a":1}"#, r#"{"b":2}"#]);
    let pretty = "{\n  \"a\": 1,\n  \"b\": {\n \"c\": \"}\\\"{\" }\n}";
    check(&format!("{pretty}\n"), &[pretty]);
    check("\u{feff}{\"a\":1}", &[r#"{"a":1}"#]);
    for empty in ["{\"Records\":[]}", "", " \n"] {
        check(empty, &[]);
    }
    check(r#"{"a":1}{"b":2},{"c":3}"#, &[r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
}

#[test]
fn a_broken_line_leaves_the_lines_around_it_alone() {
    for (line, found) in
        [("{\"b\":", "broken_json: {\"b\":"), ("{\"b\":\"x", "broken_json: {\"b\":\"x"), ("garbage }", "garbage }")]
    {
        check(&format!("{{\"a\":1}}\n{line}\n{{\"c\":3}}"), &[r#"{"a":1}"#, found, r#"{"c":3}"#]);
    }
    check("{\"a\n{\"c\":3}", &["broken_json: {\"a", r#"{"c":3}"#]);
    check(
        "{\"Records\":[{\"a\":1}]}\n{\"Records\":[{\"b\":2},\n{\"Records\":[{\"c\":3}]}",
        &[r#"{"a":1}"#, r#"{"b":2}"#, "broken_json: ", r#"{"c":3}"#],
    );
}

#[test]
fn an_element_is_delimited_even_when_it_does_not_parse() {
    check("{\"a\":1}\n7\ngarbage\n\"b\"", &[r#"{"a":1}"#, "7", "garbage", "\"b\""]);
    check(r#"{"Records":[{"a":1},{"b":,},nonsense,{"c":3}]}"#, &[r#"{"a":1}"#, r#"{"b":,}"#, "nonsense", r#"{"c":3}"#]);
}

#[test]
fn a_structure_that_ends_early_is_one_broken_piece() {
    check(r#"{"Records":[{"a":1},{"b":2"#, &[r#"{"a":1}"#, r#"broken_json: {"b":2"#]);
    check(r#"{"Records":[{"a":1},"#, &[r#"{"a":1}"#, "broken_json: "]);
    check(r#"{"Records":[{"a":1}]"#, &[r#"{"a":1}"#, "broken_json: "]);
    check(r#"[{"a":1}"#, &[r#"{"a":1}"#, "broken_json: "]);
    check(r#"{"a":"#, &[r#"broken_json: {"a":"#]);
}

#[test]
fn every_records_of_a_wrapper_counts() {
    let one_two_three = [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#];
    check(r#"{"Records":[{"a":1},{"a":2}],"Records":[{"a":3}]}"#, &one_two_three);
    check(r#"{"Records":[{"a":1}],"Records":[],"x":[{}],"\u0052ecords":[{"a":2},{"a":3}],"y":{}}"#, &one_two_three);
    let one_line = r#"{"Records":[{"a":1}],"x":1,"Records":[{"a":2}]}"#;
    check(
        &format!("{one_line}\n{{\"b\":\n{{\"a\":3}}"),
        &[one_two_three[0], one_two_three[1], "broken_json: {\"b\":", one_two_three[2]],
    );
    check(
        r#"{"Records":[{"a":1}],"Records":null,"Records":[{"a":2}]}[{"a":3}]"#,
        &[r#"{"a":1}"#, r#"records_not_an_array: ,"Records":null,"Records":[{"a":2}]}"#, r#"{"a":3}"#],
    );
    check(
        r#"{"Records":[{"a":1}] "Records":[{"a":2}]}[{"a":3}]"#,
        &[r#"{"a":1}"#, r#"broken_json:  "Records":[{"a":2}]}"#, r#"{"a":3}"#],
    );
}

#[test]
fn what_stands_behind_records_is_passed_over_however_large_or_deep_and_hides_none() {
    let large = "x".repeat(RECORD_BYTES_MAX * 2);
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let content =
        format!(r#"{{"Records":[{{"a":1}}],"x":"{large}","{large}":[{deep}],"Records":[{{"a":2}}]}}[{{"a":3}}]"#);
    assert_eq!(pieces(content.as_bytes(), READ_BYTES), [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
    let content = format!(r#"{{"x":"{large}","y":{deep},"Records":[{{"a":1}}],"Records":[{{"a":2}}],"z":{deep}}}"#);
    assert_eq!(pieces(content.as_bytes(), READ_BYTES), [r#"{"a":1}"#, r#"{"a":2}"#]);
}

#[test]
fn what_is_no_json_is_one_piece() {
    check("line\tvalue\n1\t2\n", &["not_json: line\tvalue\n1\t2\n"]);
    check(r#"{"Records":"none","a":[1]}"#, &[r#"records_not_an_array: {"Records":"none","a":[1]}"#]);
}

#[test]
fn too_large_and_too_deep_are_refused_and_the_neighbours_stay() {
    let large = "x".repeat(RECORD_BYTES_MAX * 3);
    let content = format!("{{\"Records\":[{{\"a\":1}},{{\"b\":\"{large}\"}},{{\"c\":3}}]}}");
    let found = pieces(content.as_bytes(), 1 << 20);
    assert_eq!((found.len(), &*found[0], &*found[2]), (3, r#"{"a":1}"#, r#"{"c":3}"#));
    assert!(found[1].starts_with("record_too_large: {\"b\":\"xxx"));

    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let found = pieces(format!("[{{\"a\":1}},{deep},{{\"c\":3}}]").as_bytes(), 1 << 20);
    assert_eq!((found.len(), &*found[0], &*found[2]), (3, r#"{"a":1}"#, r#"{"c":3}"#));
    assert!(found[1].starts_with("nested_too_deep: [[["));
}

#[test]
fn no_container_lets_a_record_nest_deeper_than_the_limit() {
    let record = |depth: u32| {
        let inner = depth as usize - 1;
        format!("{{\"a\":{}1{}}}", "[".repeat(inner), "]".repeat(inner))
    };
    for (depth, is_refused) in [(100, false), (101, true), (50_000, true)] {
        let record = record(depth);
        let found = if is_refused { format!("nested_too_deep: {}", &record[..40]) } else { record.clone() };
        let pretty = format!("{{\n  \"b\": 1,\n  {}\n}}", &record[1..record.len() - 1]);
        let pretty_found = if is_refused { format!("nested_too_deep: {}", &pretty[..40]) } else { pretty.clone() };
        check(&format!("{record}\n{{\"c\":3}}\n"), &[&found, r#"{"c":3}"#]);
        check(&format!("{{\"c\":3}}\n{record}"), &[r#"{"c":3}"#, &found]);
        check(&format!("{{\"Records\":[{record},{{\"c\":3}}]}}"), &[&found, r#"{"c":3}"#]);
        check(&format!("[{record},{{\"c\":3}}]"), &[&found, r#"{"c":3}"#]);
        check(&format!("[\n{record}\n]\n[{{\"c\":3}}]"), &[&found, r#"{"c":3}"#]);
        check(&format!("{pretty}\n{pretty}\n{{\"c\":3}}"), &[&pretty_found, &pretty_found, r#"{"c":3}"#]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, record.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut records = Records::new(Inflate::open(gzip.as_slice()).unwrap());
        let refused =
            Piece::Broken { reason: Reason::NestedTooDeep, bytes: record.as_bytes(), offset: 0, is_whole: true };
        let kept = Piece::Record { bytes: record.as_bytes(), offset: 0 };
        assert_eq!(records.next().unwrap(), Some(if is_refused { refused } else { kept }));
        assert_eq!(records.next().unwrap(), None);
    }
}

/// Repeated, each of them makes a careless reader look far ahead, and again from a little further on.
const FRAGMENTS: &[&str] = &[
    "{\"a\":\n1],\"b\":\n",
    "{\"a\":1],\"b\":",
    "[{",
    "{\"Records\":[",
    "{\"Records\":[]",
    "{\"Records\":[1],",
    "],\"Records\":[",
    "\\",
    "\"",
    "\"\\",
    "]",
    "}",
    "[",
    "{",
    ",",
    " ",
    "\n",
    "{\"a\"\n",
    "{\"a\":\"\n",
    "{\"a\":1}",
    "{\"a\":1",
    "{\"a\":{\"b\":[1,2]},\"c\":",
    "\"a\":1,",
    "x",
    "1,",
    "1\n",
];

/// What reading costs, in bytes followed, moved or cleared.
fn work_bytes(stored: &[u8]) -> u64 {
    let mut records = Records::new(Inflate::open(Steps(stored, 1_000)).unwrap());
    while records.next().unwrap().is_some() {}
    records.work_bytes
}

#[test]
fn every_byte_is_followed_a_constant_number_of_times_whatever_it_says() {
    let line = "{\"a\":1}\n";
    for begin in ["", line, "[", "{\"Records\":[", "{\"Records\":[]", "{\"a\":\"", "{"] {
        for fragment in FRAGMENTS {
            for separator in ["", "\n"] {
                let unit = format!("{fragment}{separator}");
                let content = format!("{begin}{}", unit.repeat((1 << 20) / unit.len()));
                let work = work_bytes(content.as_bytes());
                let limit = 3 * content.len() + 2 * READ_BYTES;
                assert!(work <= limit as u64, "{work} for {} bytes of {begin} and {unit}", content.len());
            }
        }
    }
    let large = format!("{line}{{\"a\":\"{}\"", "x".repeat(RECORD_BYTES_MAX - 100)).repeat(3);
    assert!(work_bytes(large.as_bytes()) <= 3 * large.len() as u64 + 2 * READ_BYTES as u64);
}

#[test]
fn gzip_members_of_one_byte_cost_no_more_than_their_content() {
    let member = |byte: u8| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &[byte]).unwrap();
        gzip.finish().unwrap()
    };
    let content = "{\"a\":1}\n".repeat(2_000);
    let stored: Vec<u8> = content.bytes().flat_map(member).collect();
    assert!(work_bytes(&stored) <= 3 * content.len() as u64 + 2 * READ_BYTES as u64);
}

proptest::proptest! {
    #[test]
    fn boundaries_of_reads_change_no_piece(
        content in proptest::collection::vec(proptest::sample::select(FRAGMENTS), 0..20),
        step in 1_usize..20,
    ) {
        let content = content.concat();
        proptest::prop_assert_eq!(pieces(content.as_bytes(), step), pieces(content.as_bytes(), 1 << 20));
    }
}

#[test]
fn a_line_without_end_is_refused_in_bounded_memory() {
    let mut records = Records::new(Inflate::open(io::repeat(b'x').take(300 << 20)).unwrap());
    assert!(matches!(records.next(), Ok(Some(Piece::Broken { reason: Reason::NotJson, is_whole: false, .. }))));
    let line = io::Cursor::new(b"{\"a\":\"").chain(io::repeat(b'x').take(300 << 20));
    let mut records = Records::new(Inflate::open(line).unwrap());
    assert!(matches!(records.next(), Ok(Some(Piece::Broken { reason: Reason::BrokenJson, is_whole: false, .. }))));
    assert!(records.buffer.capacity() < 4 * RECORD_BYTES_MAX);
}

#[test]
fn the_limit_of_a_record_is_exact_wherever_it_stands() {
    for (length, is_refused) in [(RECORD_BYTES_MAX, false), (RECORD_BYTES_MAX + 1, true)] {
        let record = format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
        let found = if is_refused { format!("record_too_large: {}", &record[..40]) } else { record.clone() };
        for begin in [0, 1, READ_BYTES - 20, READ_BYTES, READ_BYTES + 20] {
            let blanks = " ".repeat(begin);
            for content in [format!("{blanks}{record}"), format!("{blanks}[{record}]")] {
                assert!(pieces(content.as_bytes(), READ_BYTES) == [&*found], "{length} bytes at {begin}");
            }
        }
        let scalar = "1".repeat(length);
        let found = if is_refused { format!("record_too_large: {}", &scalar[..40]) } else { scalar.clone() };
        assert!(pieces(format!("[{scalar},{{}}]").as_bytes(), READ_BYTES) == [&*found, "{}"]);
    }
}

#[test]
fn a_line_cut_behind_a_backslash_leaves_the_next_alone() {
    for broken in ["{\"a\":\"x\\", "{\"a\\", "[\"x\\"] {
        let found = format!("broken_json: {}", broken.trim_start_matches('['));
        check(&format!("{{\"a\":1}}\n{broken}\n{{\"c\":3}}"), &[r#"{"a":1}"#, &found, r#"{"c":3}"#]);
    }
    check("{\"a\":\"x\\\n{\"c\":3}", &["broken_json: {\"a\":\"x\\", r#"{"c":3}"#]);
}

#[test]
fn a_first_line_broken_in_a_string_shows_that_these_are_lines() {
    check("{\"a\":\"x\n{\"b\":\n{\"c\":3}", &["broken_json: {\"a\":\"x", "broken_json: {\"b\":", r#"{"c":3}"#]);
}

#[test]
fn a_newline_before_records_shows_that_these_are_no_lines() {
    let wrapper = |n: u8| format!("{{\n\"Records\":[{{\"a\":{n}}}]}}\n");
    check(&format!("{}{}", wrapper(1), wrapper(2)), &[r#"{"a":1}"#, r#"{"a":2}"#]);
}
