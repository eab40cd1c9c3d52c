//! Reading JSON values leniently: a value of another type than the documented one reads as None,
//! yet everything in it is checked for syntax, depth and numbers, so that nothing can fail later.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::text::StringArena;

/// What a documented field can be read from. Every method stands for one JSON type; the ones a type
/// leaves out read as None.
///
/// `strings` keeps what cannot be borrowed from the body.
pub(crate) trait Read<'de>: Sized {
    /// What the field should be, for messages: `a string`.
    const EXPECTED: &'static str;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(Lenient(strings, PhantomData))
    }

    fn from_bool(_: bool, _strings: &'de StringArena) -> Option<Self> {
        None
    }

    /// A number of any kind.
    fn from_number(_: Number, _strings: &'de StringArena) -> Option<Self> {
        None
    }

    fn from_text(_: Text<'de, '_>) -> Option<Self> {
        None
    }

    fn from_seq<A: SeqAccess<'de>>(
        seq: A,
        _strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        check_seq(seq).map(|()| None)
    }

    fn from_map<A: MapAccess<'de>>(
        map: A,
        _strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        check_map::<0, _>(map).map(|()| None)
    }
}

/// A string of the body.
pub(crate) enum Text<'de, 'v> {
    /// It stands in the body as it is.
    InBody(&'de str),
    /// The body writes it with escapes, so that it lives no longer than the reader looks at it.
    Scratch(&'v str, &'de StringArena),
}

impl<'de> Text<'de, '_> {
    /// The string, on its own.
    pub(crate) fn into_cow(self) -> Cow<'de, str> {
        match self {
            Self::InBody(text) => Cow::Borrowed(text),
            Self::Scratch(text, _) => Cow::Owned(text.to_owned()),
        }
    }

    /// The string, for as long as the body lives.
    pub(crate) fn keep(self) -> &'de str {
        match self {
            Self::InBody(text) => text,
            Self::Scratch(text, strings) => strings.keep(text.to_owned()),
        }
    }
}

/// Reads a field that may be of any type; only the documented one is kept.
pub(crate) struct Field<'de, T>(&'de StringArena, PhantomData<T>);

pub(crate) fn field<T>(strings: &StringArena) -> Field<'_, T> {
    Field(strings, PhantomData)
}

impl<'de, T: Read<'de>> DeserializeSeed<'de> for Field<'de, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::read(deserializer, self.0)
    }
}

struct Lenient<'de, T>(&'de StringArena, PhantomData<T>);

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
        Ok(T::from_text(Text::Scratch(value, self.0)))
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

/// Reads a required field: another type is an error with this path.
pub(crate) struct RequiredField<'de, T> {
    path: &'static str,
    strings: &'de StringArena,
    r#type: PhantomData<T>,
}

pub(crate) fn required<'de, T>(
    path: &'static str,
    strings: &'de StringArena,
) -> RequiredField<'de, T> {
    RequiredField {
        path,
        strings,
        r#type: PhantomData,
    }
}

impl<'de, T: Read<'de>> DeserializeSeed<'de> for RequiredField<'de, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match T::read(deserializer, self.strings)? {
            Some(value) => Ok(Some(value)),
            None => Err(self
                .strings
                .field_error(self.path, format_args!("expected {}", T::EXPECTED))),
        }
    }
}

/// A field for which to be of another type is not the same as to be absent, which null still is.
pub(crate) struct Typed<T>(pub(crate) Option<T>);

impl<'de, T: Read<'de>> Read<'de> for Typed<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_option(Presence(strings, PhantomData))
    }
}

struct Presence<'de, T>(&'de StringArena, PhantomData<T>);

impl<'de, T: Read<'de>> Visitor<'de> for Presence<'de, T> {
    type Value = Option<Typed<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        T::read(deserializer, self.0).map(|value| Some(Typed(value)))
    }
}

impl<'de> Read<'de> for &'de str {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(text.keep())
    }
}

/// A string that is read more than once and therefore not kept.
impl<'de> Read<'de> for Cow<'de, str> {
    const EXPECTED: &'static str = "a string";

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(text.into_cow())
    }
}

impl<'de> Read<'de> for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_number(value: Number, _: &'de StringArena) -> Option<Self> {
        value.as_u64()
    }
}

impl<'de> Read<'de> for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_bool(value: bool, _: &'de StringArena) -> Option<Self> {
        Some(value)
    }
}

impl<'de, T: Read<'de>> Read<'de> for Box<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, D::Error> {
        Ok(T::read(deserializer, strings)?.map(Self::new))
    }
}

/// The elements that are of the documented type; the others are left out.
impl<'de, T: Read<'de>> Read<'de> for Vec<T> {
    const EXPECTED: &'static str = "an array";

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(field(strings))? {
            items.extend(item);
        }
        Ok(Some(items))
    }
}

/// An id: a string, or the JSON text of whatever stands in its place. The Hub once sent ids as
/// `{"buffer": "..."}`; such a delivery must not be lost for it.
pub(crate) struct Id<'a>(&'a str);

impl<'a> Id<'a> {
    pub(crate) fn text(self) -> &'a str {
        self.0
    }

    fn json(value: &Value, strings: &'a StringArena) -> Self {
        Self(strings.keep(value.to_string()))
    }
}

impl<'de> Read<'de> for Id<'de> {
    const EXPECTED: &'static str = "an id";

    fn from_bool(value: bool, strings: &'de StringArena) -> Option<Self> {
        Some(Self::json(&value.into(), strings))
    }

    fn from_number(value: Number, strings: &'de StringArena) -> Option<Self> {
        Some(Self::json(&value.into(), strings))
    }

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(Self(text.keep()))
    }

    fn from_seq<A: SeqAccess<'de>>(
        seq: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        Ok(Value::from_seq(seq, strings)?.map(|value| Self::json(&value, strings)))
    }

    fn from_map<A: MapAccess<'de>>(
        map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        Ok(Value::from_map(map, strings)?.map(|value| Self::json(&value, strings)))
    }
}

/// Any value at all; null reads as None. Not `Value`'s own `Deserialize`, to which a key that
/// serde_json uses within (`$serde_json::private::RawValue`) is not a key like any other.
impl<'de> Read<'de> for Value {
    const EXPECTED: &'static str = "any value";

    fn from_bool(value: bool, _: &'de StringArena) -> Option<Self> {
        Some(Self::Bool(value))
    }

    fn from_number(value: Number, _: &'de StringArena) -> Option<Self> {
        Some(Self::Number(value))
    }

    fn from_text(text: Text<'de, '_>) -> Option<Self> {
        Some(Self::String(text.into_cow().into_owned()))
    }

    fn from_seq<A: SeqAccess<'de>>(
        mut seq: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(field(strings))? {
            items.push(item.unwrap_or(Self::Null));
        }
        Ok(Some(Self::Array(items)))
    }

    fn from_map<A: MapAccess<'de>>(
        mut map: A,
        strings: &'de StringArena,
    ) -> Result<Option<Self>, A::Error> {
        let mut pairs = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(field(strings))?;
            pairs.insert(key, value.unwrap_or(Self::Null));
        }
        Ok(Some(Self::Object(pairs)))
    }
}

/// A value's text, neither read nor checked.
impl<'de> Read<'de> for &'de RawValue {
    const EXPECTED: &'static str = "any value";

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        _: &'de StringArena,
    ) -> Result<Option<Self>, D::Error> {
        Self::deserialize(deserializer).map(Some)
    }
}

/// The value that a text writes; null if it writes none, which a body that was read always does.
#[cfg(feature = "python")]
pub(crate) fn value_of(json: &str) -> Value {
    let strings = StringArena::default();
    let mut reader = serde_json::Deserializer::from_str(json);
    let value = field(&strings).deserialize(&mut reader);
    value.ok().flatten().unwrap_or_default()
}

/// Any value, checked and dropped. Unlike `serde::de::IgnoredAny`, which skips text, this meets the
/// reader's limits on depth and numbers.
///
/// A use that has to be fast takes a number of its own, as the compiler inlines what is used once.
pub(crate) struct Checked<const USE: u8 = 0>;

impl<'de, const USE: u8> Read<'de> for Checked<USE> {
    const EXPECTED: &'static str = "any value";

    fn read<D: Deserializer<'de>>(
        deserializer: D,
        _: &'de StringArena,
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

    // What holds other values is kept apart, so that the rest can be inlined: flat objects are then
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

/// Read an object's documented keys, in any order, into variables; check the other keys' values. Of
/// a key given twice the last counts, as for `json.loads`, so that fields agree with `to_dict`.
macro_rules! read_object {
    (@seed $strings:ident) => {
        $crate::read::field($strings)
    };
    (@seed $strings:ident $path:literal) => {
        $crate::read::required($path, $strings)
    };
    ($map:ident, $strings:ident, { $($key:literal => $slot:ident $(required at $path:literal)?),* $(,)? }) => {
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
                $(Key::$slot => $slot = $map.next_value_seed($crate::read::read_object!(@seed $strings $($path)?))?,)*
                Key::undocumented => {
                    $map.next_value::<$crate::read::Checked>()?;
                }
            }
        }
    };
}
pub(crate) use read_object;
