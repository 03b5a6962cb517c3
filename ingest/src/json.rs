//! The members of a JSON object, read as far as they decide something.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A field's value as far as counting cares: text, nothing, or something else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    /// Missing, or null.
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

impl<'a> Scalar<'a> {
    /// Whether it is exactly this text.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self, Self::Text(found) if found == text)
    }

    /// Its text; `None` if it is none, or empty.
    pub(crate) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            Self::Text(_) | Self::Absent | Self::Other => None,
        }
    }

    /// The same, independent of what it was read from.
    pub(crate) fn into_owned(self) -> Scalar<'static> {
        match self {
            Self::Absent => Scalar::Absent,
            Self::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
            Self::Other => Scalar::Other,
        }
    }

    /// Whether it says nothing: missing, null or empty.
    pub(crate) fn says_nothing(&self) -> bool {
        matches!(self, Self::Absent) || self.is("")
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Absent)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

/// The members of one object, their values as written; the last of equal keys counts.
#[derive(Debug)]
pub(crate) struct Members<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Members<'a> {
    /// Reads an object; `None` if the text is another value, or no JSON.
    pub(crate) fn read(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whether there is such a member, null included.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Whether there is no member at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A member's value as written.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a [u8]> {
        self.0.get(key).map(|value| value.get().as_bytes())
    }

    /// A member that should be text.
    pub(crate) fn text(&self, key: &str) -> Scalar<'a> {
        // Text that no Unicode string can hold is something else than text.
        self.raw(key).map_or(Scalar::Absent, |value| serde_json::from_slice(value).unwrap_or(Scalar::Other))
    }

    /// The first of these members that says something: for fields that are written in two ways.
    pub(crate) fn text_of(&self, keys: [&str; 2]) -> Scalar<'a> {
        let first = self.text(keys[0]);
        if first.says_nothing() { self.text(keys[1]) } else { first }
    }

    /// The members that are objects.
    pub(crate) fn objects(&self) -> impl Iterator<Item = Self> {
        self.0.values().filter_map(|value| Self::read(value.get().as_bytes()))
    }

    /// A member that is an object.
    pub(crate) fn object(&self, key: &str) -> Option<Self> {
        Self::read(self.raw(key)?)
    }

    /// The elements of a member that is an array, as written.
    pub(crate) fn array(&self, key: &str) -> Option<Vec<&'a [u8]>> {
        let elements: Vec<&'a RawValue> = serde_json::from_slice(self.raw(key)?).ok()?;
        Some(elements.into_iter().map(|element| element.get().as_bytes()).collect())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(key) = map.next_key::<Scalar<'de>>()? {
                    let Scalar::Text(key) = key else { unreachable!("the key of a JSON object is text") };
                    members.insert(key, map.next_value::<&RawValue>()?);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_keys_counts_and_escaped_keys_are_keys() {
        let members = Members::read(br#" {"a":1,"b":{"c":[1, {"d":2}]},"\u0061":"x","n":null,"e":""} "#).unwrap();
        assert!(members.text("a").is("x"));
        assert_eq!(members.len(), 4);
        assert_eq!((members.text("n"), members.text("missing")), (Scalar::Absent, Scalar::Absent));
        assert_eq!(members.text("b"), Scalar::Other);
        assert!(members.text_of(["n", "a"]).is("x") && members.text_of(["e", "a"]).is("x"));
        let elements = members.object("b").unwrap().array("c").unwrap();
        assert_eq!(elements, [b"1".as_slice(), br#"{"d":2}"#]);
        for other in ["", "[]", "1", "null", "{", r#"{"a":1}x"#, r#"{"a":}"#] {
            assert!(Members::read(other.as_bytes()).is_none(), "{other}");
        }
    }
}
