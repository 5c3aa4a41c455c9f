//! Places on the globe.

/// Where something stands, in degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Coordinates {
    /// −90 to 90.
    pub latitude: f64,
    /// −180 to 180.
    pub longitude: f64,
}

impl Coordinates {
    /// Mean radius of the earth (IUGG), in kilometres.
    const RADIUS: f64 = 6371.0088;

    /// Length of the great circle to another place, in kilometres, by the haversine formula.
    #[must_use]
    pub fn distance(self, other: Self) -> f64 {
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
        let chord = half(other.latitude - self.latitude)
            + from.cos() * to.cos() * half(other.longitude - self.longitude);
        2.0 * Self::RADIUS * chord.sqrt().min(1.0).asin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_great_circles() {
        let place = |latitude, longitude| Coordinates { latitude, longitude };
        let (frankfurt, tokyo) = (place(50.11, 8.68), place(35.68, 139.69));
        for (a, b, kilometres) in [
            (frankfurt, frankfurt, 0.0),
            (frankfurt, place(51.51, -0.13), 637.0),
            (frankfurt, tokyo, 9333.0),
            // Over the date line, and over the pole.
            (place(0.0, 179.0), place(0.0, -179.0), 222.4),
            (place(89.0, 0.0), place(89.0, 180.0), 222.4),
            (place(0.0, 0.0), place(0.0, 180.0), 20_015.1),
        ] {
            let distance = a.distance(b);
            assert!((distance - kilometres).abs() < 5.0, "{a:?} {b:?} {distance}");
            assert!((distance - b.distance(a)).abs() < 1e-6);
        }
    }
}
