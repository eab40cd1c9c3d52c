//! Lenient parsing of JSON values. A value of another type than the documented one is None. Its
//! syntax, depth and numbers are still checked, so no later access fails.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::text::Strings;

/// A type that a documented field can have. Each method stands for one JSON type. A type without
/// the method is None.
///
/// `strings` keeps values that cannot be borrowed from the body.
pub(crate) trait Read<'de>: Sized {
    /// The expected type in messages: `a string`.
    const EXPECTED: &'static str;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        strings: &'de Strings,
    ) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(Lenient(strings, PhantomData))
    }

    fn from_bool(_: bool, _strings: &'de Strings) -> Option<Self> {
        None
    }

    /// A number of any kind.
    fn from_number(_: Number, _strings: &'de Strings) -> Option<Self> {
        None
    }

    fn from_text(_: Text<'de, '_>) -> Option<Self> {
        None
    }

    fn from_seq<A: SeqAccess<'de>>(
        seq: A,
        _strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        check_seq(seq).map(|()| None)
    }

    fn from_map<A: MapAccess<'de>>(
        map: A,
        _strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        check_map::<0, _>(map).map(|()| None)
    }
}

/// A string of the body.
pub(crate) enum Text<'de, 'v> {
    /// Without escapes: borrowed from the body.
    InBody(&'de str),
    /// With escapes: the reader decoded it, and keeps it only during the call.
    Passing(&'v str, &'de Strings),
}

impl<'de> Text<'de, '_> {
    /// The string, independent of the reader.
    pub(crate) fn into_cow(self) -> Cow<'de, str> {
        match self {
            Self::InBody(text) => Cow::Borrowed(text),
            Self::Passing(text, _) => Cow::Owned(text.to_owned()),
        }
    }

    /// The string, with the lifetime of the body.
    pub(crate) fn keep(self) -> &'de str {
        match self {
            Self::InBody(text) => text,
            Self::Passing(text, strings) => strings.keep(text.to_owned()),
        }
    }
}

/// Parses a field of any type, and keeps only a value of the documented type.
pub(crate) struct Field<'de, T>(&'de Strings, PhantomData<T>);

pub(crate) fn field<T>(strings: &Strings) -> Field<'_, T> {
    Field(strings, PhantomData)
}

impl<'de, T: Read<'de>> DeserializeSeed<'de> for Field<'de, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::read(deserializer, self.0)
    }
}

struct Lenient<'de, T>(&'de Strings, PhantomData<T>);

impl<'de, T: Read<'de>> Visitor<'de> for Lenient<'de, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(T::from_bool(value, self.0))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(T::from_number(value.into(), self.0))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(T::from_number(value.into(), self.0))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Number::from_f64(value).and_then(|number| T::from_number(number, self.0)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(T::from_text(Text::InBody(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(T::from_text(Text::Passing(value, self.0)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        T::from_seq(seq, self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::from_map(map, self.0)
    }
}

/// A required field of an event.
pub(crate) trait Required {
    /// The path, with dots.
    const PATH: &'static str;
}

/// Make an error with a path. An error of serde is only a message, so the path is its first line.
/// [`split_mistake`] splits it again.
pub(crate) fn mistake<E: serde::de::Error>(path: &str, what: impl fmt::Display) -> E {
    E::custom(format_args!("{path}\n{what}"))
}

/// Split a message of [`mistake`] into the path and the rest.
pub(crate) fn split_mistake(message: &str) -> Option<(&str, &str)> {
    message.split_once('\n')
}

/// A field whose value must have the documented type.
pub(crate) struct Strict<T>(pub(crate) T);

impl<'de, T: Read<'de> + Required> Read<'de> for Strict<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        strings: &'de Strings,
    ) -> Result<Option<Self>, D::Error> {
        match T::read(deserializer, strings)? {
            Some(value) => Ok(Some(Self(value))),
            None => Err(mistake(T::PATH, format_args!("expected {}", T::EXPECTED))),
        }
    }
}

/// A field that distinguishes another type from a missing value. Null counts as missing.
pub(crate) struct Present<T>(pub(crate) Option<T>);

impl<'de, T: Read<'de>> Read<'de> for Present<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        strings: &'de Strings,
    ) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_option(Presence(strings, PhantomData))
    }
}

struct Presence<'de, T>(&'de Strings, PhantomData<T>);

impl<'de, T: Read<'de>> Visitor<'de> for Presence<'de, T> {
    type Value = Option<Present<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::read(deserializer, self.0).map(|value| Some(Present(value)))
    }
}

impl<'de> Read<'de> for &'de str {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(text.keep())
    }
}

/// A string that is parsed again at each access, and so not kept.
impl<'de> Read<'de> for Cow<'de, str> {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(text.into_cow())
    }
}

impl<'de> Read<'de> for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_number(value: Number, _: &'de Strings) -> Option<Self> {
        value.as_u64()
    }
}

impl<'de> Read<'de> for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_bool(value: bool, _: &'de Strings) -> Option<Self> {
        Some(value)
    }
}

impl<'de, T: Read<'de>> Read<'de> for Box<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        strings: &'de Strings,
    ) -> Result<Option<Self>, D::Error> {
        Ok(T::read(deserializer, strings)?.map(Self::new))
    }
}

/// The elements of the documented type. The others are left out.
impl<'de, T: Read<'de>> Read<'de> for Vec<T> {
    const EXPECTED: &'static str = "an array";

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(field(strings))? {
            items.extend(item);
        }
        Ok(Some(items))
    }
}

/// An id: a string, or the JSON text of another value.
///
/// The Hub once sent ids as `{"buffer": "..."}`. Such a delivery must not be lost.
pub(crate) struct Id<'a>(&'a str);

impl<'a> Id<'a> {
    pub(crate) fn text(self) -> &'a str {
        self.0
    }

    fn json(value: &Value, strings: &'a Strings) -> Self {
        Self(strings.keep(value.to_string()))
    }
}

impl<'de> Read<'de> for Id<'de> {
    const EXPECTED: &'static str = "an id";

    fn from_bool(value: bool, strings: &'de Strings) -> Option<Self> {
        Some(Self::json(&value.into(), strings))
    }

    fn from_number(value: Number, strings: &'de Strings) -> Option<Self> {
        Some(Self::json(&value.into(), strings))
    }

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(Self(text.keep()))
    }

    fn from_seq<A: SeqAccess<'de>>(
        seq: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        Ok(Value::from_seq(seq, strings)?.map(|value| Self::json(&value, strings)))
    }

    fn from_map<A: MapAccess<'de>>(
        map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        Ok(Value::from_map(map, strings)?.map(|value| Self::json(&value, strings)))
    }
}

/// Any value; null is None. This is not `Value`'s own `Deserialize`, which treats a key of
/// serde_json (`$serde_json::private::RawValue`) as special.
impl<'de> Read<'de> for Value {
    const EXPECTED: &'static str = "any value";

    fn from_bool(value: bool, _: &'de Strings) -> Option<Self> {
        Some(Self::Bool(value))
    }

    fn from_number(value: Number, _: &'de Strings) -> Option<Self> {
        Some(Self::Number(value))
    }

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(Self::String(text.into_cow().into_owned()))
    }

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(field(strings))? {
            items.push(item.unwrap_or(Self::Null));
        }
        Ok(Some(Self::Array(items)))
    }

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de Strings,
    ) -> Result<Option<Self>, A::Error> {
        let mut pairs = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(field(strings))?;
            pairs.insert(key, value.unwrap_or(Self::Null));
        }
        Ok(Some(Self::Object(pairs)))
    }
}

/// The JSON text of a value, without parsing it.
impl<'de> Read<'de> for &'de RawValue {
    const EXPECTED: &'static str = "any value";

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        _: &'de Strings,
    ) -> Result<Option<Self>, D::Error> {
        Self::deserialize(deserializer).map(Some)
    }
}

/// Parse a text into a value. A text of a parsed body is always valid, and any other is null.
#[cfg(feature = "python")]
pub(crate) fn value_of(json: &str) -> Value {
    let strings = Strings::default();
    let mut reader = serde_json::Deserializer::from_str(json);
    let value = field(&strings).deserialize(&mut reader);
    value.ok().flatten().unwrap_or_default()
}

/// Any value, checked and dropped. `serde::de::IgnoredAny` skips text without the reader's limits
/// on depth and numbers.
///
/// A fast use takes its own number `USE`, because the compiler inlines functions that are used
/// once.
pub(crate) struct Checked<const USE: u8 = 0>;

impl<'de, const USE: u8> Read<'de> for Checked<USE> {
    const EXPECTED: &'static str = "any value";

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        _: &'de Strings,
    ) -> Result<Option<Self>, D::Error> {
        Self::deserialize(deserializer).map(Some)
    }
}

impl<'de, const USE: u8> Deserialize<'de> for Checked<USE> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de, const USE: u8> Visitor<'de> for Checked<USE> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(<Self as Read>::EXPECTED)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(Self)
    }

    // Arrays and objects are separate functions, so that the rest is inlined. Flat objects are then
    // checked a tenth faster.
    #[cold]
    #[inline(never)]
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self, A::Error> {
        check_seq(seq)?;
        Ok(self)
    }

    #[cold]
    #[inline(never)]
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self, A::Error> {
        check_map::<0, _>(map)?;
        Ok(self)
    }
}

fn check_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<Checked>()?.is_some() {}
    Ok(())
}

pub(crate) fn check_map<'de, const USE: u8, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<Checked<USE>, Checked<USE>>()?.is_some() {}
    Ok(())
}

/// Parse the documented keys of an object, in any order, into variables. Check the values of the
/// other keys. Of a repeated key the last counts, like in `json.loads`, so that fields agree with
/// `to_dict`.
macro_rules! read_object {
    ($map:ident, $strings:ident, { $($key:literal => $slot:ident),* $(,)? }) => {
        #[derive(serde::Deserialize)]
        #[serde(field_identifier)]
        #[allow(non_camel_case_types, reason = "a key is called as its variable is")]
        enum Key {
            $(#[serde(rename = $key)] $slot,)*
            #[serde(other)]
            undocumented,
        }

        $(let mut $slot = None;)*
        while let Some(key) = $map.next_key()? {
            match key {
                $(Key::$slot => $slot = $map.next_value_seed($crate::read::field($strings))?,)*
                Key::undocumented => {
                    $map.next_value::<$crate::read::Checked>()?;
                }
            }
        }
    };
}
pub(crate) use read_object;
