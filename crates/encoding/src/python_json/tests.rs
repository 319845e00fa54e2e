#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{escape_into, to_python_json};

const RECORDED: &str = include_str!("../../../../fixtures/encoding/python_json.json");

#[test]
fn json_is_written_as_cpython_wrote_it() {
    let recorded: Vec<(String, String)> = serde_json::from_str(RECORDED).unwrap();
    assert!(recorded.len() > 700);
    for (text, want) in recorded {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(to_python_json(&value), want, "{text}");
    }
}

#[test]
fn floats_made_here_are_written_like_floats_that_were_read() {
    for (value, want) in [
        (json!(1e-7), "1e-07"),
        (json!(1e300), "1e+300"),
        (json!(0.1 + 0.2), "0.30000000000000004"),
        (json!(3.0), "3.0"),
        (json!(u64::MAX), "18446744073709551615"),
    ] {
        assert_eq!(to_python_json(&value), want);
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same_value(text in ".{0,40}", n in any::<i64>(), x in -1e300..1e300f64) {
        let value = json!({ text.clone(): [text, n, x, null, true] });
        let back: Value = serde_json::from_str(&to_python_json(&value)).unwrap();
        prop_assert_eq!(&back.as_object().unwrap().keys().next(), &value.as_object().unwrap().keys().next());
        let (back, value) = (back.as_object().unwrap().values().next().unwrap(), value.as_object().unwrap().values().next().unwrap());
        prop_assert_eq!(&back[0], &value[0]);
        prop_assert_eq!(back[1].as_i64(), value[1].as_i64());
        prop_assert_eq!(back[2].as_f64(), value[2].as_f64());
    }

    #[test]
    fn pieces_of_a_string_escape_to_pieces_of_the_escaped_string(a in ".{0,20}", b in ".{0,20}") {
        let mut pieces = String::new();
        escape_into(&mut pieces, &a);
        escape_into(&mut pieces, &b);
        let mut whole = String::new();
        escape_into(&mut whole, &(a + &b));
        prop_assert_eq!(pieces, whole);
    }
}
