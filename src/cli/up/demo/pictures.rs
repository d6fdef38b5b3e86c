//! The pictures of the pets API: faces of dogs and cats, drawn here as SVG, so that no file has to
//! come along.

use std::fmt::Write as _;

/// The animal that a face belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Animal {
    Dog,
    Cat,
}

/// Marks that tell one face from another of its kind.
#[derive(Clone, Copy, Debug)]
enum Marks {
    None,
    /// Dots all over.
    Spots,
    /// Three on the forehead.
    Stripes,
    /// The middle of the face.
    Mask,
    /// Around one eye.
    Patch,
}

/// One picture.
#[derive(Debug)]
pub struct Picture {
    pub animal: Animal,
    pub name: &'static str,
    background: &'static str,
    fur: &'static str,
    /// Ears and marks.
    accent: &'static str,
    eyes: &'static str,
    marks: Marks,
}

const BROWN: &str = "#4a2f1b";

/// Every picture there is.
pub static PICTURES: [Picture; 8] = [
    dog("labrador", "#cfe8d5", "#e9c98b", "#d0a35c", Marks::None),
    dog("dalmatian", "#d6e4f5", "#fafafa", "#2b2b2b", Marks::Spots),
    dog("beagle", "#fbe6cf", "#f5efe6", "#a9683a", Marks::Patch),
    dog("rottweiler", "#e4dcf1", "#3a302c", "#b9773d", Marks::Mask),
    cat("tabby", "#dcecc8", "#a88f76", "#5f4a38", "#7fae3a", Marks::Stripes),
    cat("siamese", "#f9dfe4", "#f1e4d0", "#5a4336", "#4f9fd8", Marks::Mask),
    cat("ginger", "#cfe6ef", "#f0a04b", "#c8701f", "#8bbf45", Marks::Stripes),
    cat("midnight", "#fdf0c4", "#2c2c34", "#17171c", "#f2c230", Marks::None),
];

const fn dog(
    name: &'static str,
    background: &'static str,
    fur: &'static str,
    accent: &'static str,
    marks: Marks,
) -> Picture {
    Picture { animal: Animal::Dog, name, background, fur, accent, eyes: BROWN, marks }
}

const fn cat(
    name: &'static str,
    background: &'static str,
    fur: &'static str,
    accent: &'static str,
    eyes: &'static str,
    marks: Marks,
) -> Picture {
    Picture { animal: Animal::Cat, name, background, fur, accent, eyes, marks }
}

impl Picture {
    /// Where the server has it.
    pub fn path(&self) -> String {
        let folder = match self.animal {
            Animal::Dog => "dogs",
            Animal::Cat => "cats",
        };
        format!("/{folder}/{}.svg", self.name)
    }

    /// Draws it.
    pub fn svg(&self) -> String {
        let (kind, ears, face) = match self.animal {
            Animal::Dog => ("dog", self.dog_ears(), self.dog_face()),
            Animal::Cat => ("cat", self.cat_ears(), self.cat_face()),
        };
        let Self { name, background, fur, .. } = self;
        let marks = self.marks();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"400\" height=\"400\" viewBox=\"0 0 200 200\">\
             <title>{kind}: {name}</title><rect width=\"200\" height=\"200\" fill=\"{background}\"/>\
             {ears}<ellipse cx=\"100\" cy=\"104\" rx=\"56\" ry=\"60\" fill=\"{fur}\"/>{marks}{face}\
             <text x=\"100\" y=\"190\" font-family=\"sans-serif\" font-size=\"14\" text-anchor=\"middle\" \
             fill=\"#333\">{name}</text></svg>\n"
        )
    }

    /// They hang.
    fn dog_ears(&self) -> String {
        let accent = self.accent;
        format!(
            "<ellipse cx=\"46\" cy=\"98\" rx=\"19\" ry=\"46\" transform=\"rotate(14 46 98)\" fill=\"{accent}\"/>\
             <ellipse cx=\"154\" cy=\"98\" rx=\"19\" ry=\"46\" transform=\"rotate(-14 154 98)\" fill=\"{accent}\"/>"
        )
    }

    /// They stand.
    fn cat_ears(&self) -> String {
        let (fur, accent) = (self.fur, self.accent);
        format!(
            "<path d=\"M48 88 L46 22 L96 54 Z M152 88 L154 22 L104 54 Z\" fill=\"{fur}\"/>\
             <path d=\"M55 70 L54 36 L80 53 Z M145 70 L146 36 L120 53 Z\" fill=\"{accent}\"/>"
        )
    }

    fn dog_face(&self) -> String {
        let eyes = self.eyes;
        format!(
            "<ellipse cx=\"100\" cy=\"136\" rx=\"31\" ry=\"26\" fill=\"#fff7ec\"/>\
             <path d=\"M90 148 q10 30 20 0 Z\" fill=\"#e8788a\"/>\
             <path d=\"M100 130 V146 M100 146 q-10 8 -18 1 M100 146 q10 8 18 1\" stroke=\"#333\" stroke-width=\"2.5\" fill=\"none\"/>\
             <ellipse cx=\"100\" cy=\"125\" rx=\"12\" ry=\"8\" fill=\"#222\"/>\
             <circle cx=\"77\" cy=\"94\" r=\"9\" fill=\"#fff\"/><circle cx=\"123\" cy=\"94\" r=\"9\" fill=\"#fff\"/>\
             <circle cx=\"78\" cy=\"95\" r=\"6\" fill=\"{eyes}\"/><circle cx=\"122\" cy=\"95\" r=\"6\" fill=\"{eyes}\"/>"
        )
    }

    fn cat_face(&self) -> String {
        let eyes = self.eyes;
        format!(
            "<ellipse cx=\"76\" cy=\"100\" rx=\"12\" ry=\"10\" fill=\"{eyes}\"/>\
             <ellipse cx=\"124\" cy=\"100\" rx=\"12\" ry=\"10\" fill=\"{eyes}\"/>\
             <ellipse cx=\"76\" cy=\"100\" rx=\"3\" ry=\"9\" fill=\"#111\"/>\
             <ellipse cx=\"124\" cy=\"100\" rx=\"3\" ry=\"9\" fill=\"#111\"/>\
             <path d=\"M92 122 h16 l-8 9 Z\" fill=\"#e58a9b\"/>\
             <path d=\"M100 131 q-8 12 -18 4 M100 131 q8 12 18 4\" stroke=\"#555\" stroke-width=\"2\" fill=\"none\"/>\
             <path d=\"M72 126 L24 118 M72 132 L22 134 M72 138 L26 150 M128 126 L176 118 M128 132 L178 134 M128 138 L174 150\" \
             stroke=\"#777\" stroke-width=\"1.5\"/>"
        )
    }

    fn marks(&self) -> String {
        const SPOTS: [(u8, u8, u8); 8] = [
            (72, 66, 8),
            (104, 58, 6),
            (130, 70, 9),
            (146, 108, 6),
            (58, 112, 7),
            (62, 140, 5),
            (140, 136, 6),
            (98, 78, 5),
        ];
        let accent = self.accent;
        match self.marks {
            Marks::None => String::new(),
            Marks::Spots => SPOTS.iter().fold(String::new(), |mut all, (x, y, radius)| {
                // Writing to a text does not fail.
                let _ =
                    write!(all, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{accent}\"/>");
                all
            }),
            Marks::Stripes => format!(
                "<path d=\"M100 48 V74 M82 52 L86 74 M118 52 L114 74 M48 112 h16 M152 112 h-16 M52 128 h12 M148 128 h-12\" \
                 stroke=\"{accent}\" stroke-width=\"6\" stroke-linecap=\"round\"/>"
            ),
            Marks::Mask => {
                format!("<ellipse cx=\"100\" cy=\"124\" rx=\"40\" ry=\"38\" fill=\"{accent}\"/>")
            }
            Marks::Patch => {
                format!("<ellipse cx=\"124\" cy=\"88\" rx=\"24\" ry=\"28\" fill=\"{accent}\"/>")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_small_and_all_different() {
        let mut drawn: Vec<String> = PICTURES.iter().map(Picture::svg).collect();
        assert!(
            drawn.iter().all(|svg| svg.len() < 4096
                && svg.starts_with("<svg ")
                && svg.ends_with("</svg>\n"))
        );
        for animal in [Animal::Dog, Animal::Cat] {
            assert!(PICTURES.iter().filter(|picture| picture.animal == animal).count() >= 3);
        }
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), PICTURES.len());
    }
}
