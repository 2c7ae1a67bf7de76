//! One value for each output format of a run.

/// Values of one kind, such as plans or targets, for each output format of a run. The stages of the primary format are
/// carried out; the companions store the resulting codes.
#[derive(Debug, Clone, PartialEq)]
pub struct PerFormat<T> {
    /// The value of the format whose stages are carried out.
    pub primary: T,
    /// The values of the other formats.
    pub companions: Vec<T>,
}

impl<T> PerFormat<T> {
    /// One format without companions.
    pub fn alone(primary: T) -> PerFormat<T> {
        PerFormat { primary, companions: Vec::new() }
    }

    /// All values, the primary first.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.primary).chain(&self.companions)
    }

    /// All values, the primary first.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut T> {
        std::iter::once(&mut self.primary).chain(&mut self.companions)
    }

    /// References to the values.
    pub fn as_ref(&self) -> PerFormat<&T> {
        PerFormat { primary: &self.primary, companions: self.companions.iter().collect() }
    }

    /// Converts every value.
    pub fn map<U>(self, mut convert: impl FnMut(T) -> U) -> PerFormat<U> {
        let primary = convert(self.primary);
        PerFormat { primary, companions: self.companions.into_iter().map(convert).collect() }
    }

    /// Converts every value, up to the first error.
    pub fn try_map<U, E>(self, mut convert: impl FnMut(T) -> Result<U, E>) -> Result<PerFormat<U>, E> {
        let primary = convert(self.primary)?;
        let companions = self.companions.into_iter().map(convert).collect::<Result<_, E>>()?;
        Ok(PerFormat { primary, companions })
    }

    /// Pairs the values with others of the same formats.
    pub fn zip<U>(self, other: PerFormat<U>) -> PerFormat<(T, U)> {
        let companions = self.companions.into_iter().zip(other.companions).collect();
        PerFormat { primary: (self.primary, other.primary), companions }
    }
}
