#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn refusal(bytes: &[u8]) -> String {
    Header::parse(bytes, "m.safetensors").unwrap_err().to_string()
}

fn entry(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
}

fn refused(entries: &[String], data: usize) -> String {
    refusal(&file(&format!("{{{}}}", entries.join(",")), data))
}

#[test]
fn tensors_come_in_the_order_of_their_bytes() {
    let json = format!(
        "{{\"__metadata__\":{{\"format\":\"pt\"}},{},{}}}",
        entry("b", "F32", "[2,1]", "[4,12]"),
        entry("a", "I8", "[4]", "[0,4]")
    );
    let header = Header::parse(&file(&json, 12), "m").unwrap();
    let names: Vec<_> =
        header.entries.iter().map(|e| (e.name.as_str(), e.dtype_name(), e.range.len())).collect();
    assert_eq!(names, [("a", "I8", 4), ("b", "F32", 8)]);
}

#[test]
fn a_file_too_short_for_its_length_is_refused() {
    assert_eq!(refusal(&[0; 7]), "m.safetensors: is 7 bytes long, too short for a safetensors file");
    assert_eq!(refusal(&[]), "m.safetensors: is 0 bytes long, too short for a safetensors file");
}

#[test]
fn a_header_of_four_gigabytes_is_refused_without_allocating_it() {
    let mut bytes = (4_u64 << 30).to_le_bytes().to_vec();
    bytes.extend([b' '; 100]);
    assert_eq!(refusal(&bytes), "m.safetensors: header of 4294967296 bytes exceeds the limit of 100000000");
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&bytes).contains("exceeds the limit"));
}

#[test]
fn a_truncated_header_is_refused() {
    let bytes = file("{\"a\":1}", 0);
    assert_eq!(refusal(&bytes[..12]), "m.safetensors: header of 7 bytes, but only 4 follow");
}

#[test]
fn a_header_is_read_from_the_head_of_a_file_alone() {
    let bytes = file(&format!("{{{}}}", entry("a", "I8", "[4]", "[0,4]")), 4);
    let head = Header::head_bytes(*bytes.first_chunk().unwrap(), "m").unwrap();
    assert_eq!(head as usize, bytes.len() - 4);
    let whole = Header::parse(&bytes, "m").unwrap();
    assert_eq!(Header::parse_head(&bytes[..bytes.len() - 4], bytes.len() as u64, "m").unwrap(), whole);
    assert!(Header::parse_head(&bytes[..bytes.len() - 4], bytes.len() as u64 - 1, "m").is_err());
    assert!(Header::parse_head(&bytes[..bytes.len() - 5], bytes.len() as u64, "m").is_err());
    assert!(Header::parse_head(&bytes, 3, "m").is_err());
    assert!(Header::head_bytes(u64::MAX.to_le_bytes(), "m").is_err());
}

#[test]
fn a_name_given_twice_is_refused() {
    let twice = [entry("a", "I8", "[1]", "[0,1]"), entry("a", "I8", "[1]", "[1,2]")];
    assert!(refused(&twice, 2).starts_with("m.safetensors: header: tensor `a` is there twice"));
}

#[test]
fn tensors_that_overlap_leave_holes_or_end_early_are_refused_by_name() {
    let pair = |a, b| [entry("a", "I8", "[4]", a), entry("b", "I8", "[4]", b)];
    assert_eq!(
        refused(&pair("[0,4]", "[2,6]"), 6),
        "m.safetensors: tensor `b` overlaps the 2 bytes before it"
    );
    assert_eq!(refused(&pair("[0,4]", "[5,9]"), 9), "m.safetensors: tensor `b` follows a hole of 1 bytes");
    assert_eq!(refused(&pair("[1,5]", "[5,9]"), 9), "m.safetensors: tensor `a` follows a hole of 1 bytes");
    assert_eq!(
        refused(&pair("[0,4]", "[4,8]"), 9),
        "m.safetensors: 1 bytes after the last tensor belong to none"
    );
    assert_eq!(
        refused(&pair("[0,4]", "[4,8]"), 7),
        "m.safetensors: tensor `b` lies at bytes 4..8 of 7 that the file has"
    );
}

#[test]
fn offsets_and_shapes_that_overflow_are_refused_by_name() {
    let huge = u64::MAX.to_string();
    let one = |shape: &str, offsets: &str| refused(&[entry("a", "F32", shape, offsets)], 8);
    assert_eq!(
        one("[2]", &format!("[0,{huge}]")),
        format!("m.safetensors: tensor `a` lies at bytes 0..{huge} of 8 that the file has")
    );
    assert_eq!(one("[2]", "[8,0]"), "m.safetensors: tensor `a` lies at bytes 8..0 of 8 that the file has");
    let shape = format!("[{huge}, 4]");
    assert_eq!(
        one(&shape, "[0,8]"),
        format!("m.safetensors: tensor `a` of shape {shape} and dtype F32 has 8 bytes")
    );
    assert_eq!(one("[3]", "[0,8]"), "m.safetensors: tensor `a` of shape [3] and dtype F32 has 8 bytes");
    assert_eq!(one("[1,1,1,1,1,1,1,1,2]", "[0,8]"), "m.safetensors: tensor `a` has 9 axes");
    assert!(one("[99999999999999999999]", "[0,8]").starts_with("m.safetensors: header: tensor `a`: "));
    assert!(one("[-2]", "[0,8]").starts_with("m.safetensors: header: tensor `a`: "));
}

#[test]
fn a_dtype_of_another_format_is_refused_by_name() {
    assert_eq!(
        refused(&[entry("a", "Q4_K", "[1]", "[0,1]")], 1),
        "m.safetensors: tensor `a` has dtype \"Q4_K\", which safetensors does not know"
    );
}

#[test]
fn json_that_nests_too_deep_is_an_error_and_no_stack_overflow() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refusal(&file(&deep, 0)).starts_with("m.safetensors: header: "));
    let unknown = format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000));
    assert!(refusal(&file(&unknown, 0)).starts_with("m.safetensors: header: "));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::parse(&bytes, "m");
    }

    #[test]
    fn no_header_text_makes_the_parser_panic(json in "\\PC{0,200}", data in 0_usize..64) {
        let _ = Header::parse(&file(&json, data), "m");
    }

    #[test]
    fn what_is_accepted_tiles_the_file(
        tensors in prop::collection::vec((0_u64..40, 0_u64..12, prop::sample::select(vec!["F32", "I8", "F4", "BF16"])), 0..5),
        data in 0_usize..60,
    ) {
        let entries: Vec<String> = tensors
            .iter()
            .enumerate()
            .map(|(i, (start, len, dtype))| {
                entry(&format!("t{i}"), dtype, &format!("[{len}]"), &format!("[{start},{}]", start + len))
            })
            .collect();
        let bytes = file(&format!("{{{}}}", entries.join(",")), data);
        if let Ok(header) = Header::parse(&bytes, "m") {
            let end = header.entries.iter().fold(bytes.len() - data, |end, entry| {
                assert_eq!(entry.range.start, end);
                entry.range.end
            });
            prop_assert_eq!(end, bytes.len());
        }
    }

    #[test]
    fn a_sound_header_with_one_byte_changed_never_panics(at in 8_usize..150, byte: u8) {
        let json = format!("{{{},{}}}", entry("a", "I8", "[4]", "[0,4]"), entry("b", "F32", "[2,1]", "[4,12]"));
        let mut bytes = file(&json, 12);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = Header::parse(&bytes, "m");
    }
}
