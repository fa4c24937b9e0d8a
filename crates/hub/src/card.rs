//! What a repository says of its model: `README.md`.

use std::fmt::{self, Write as _};

use crate::hash::sha256_of_text;

/// A ControlNet's model card.
///
/// Source: diffusers 0.42, `save_model_card` of the two training scripts, whose licences and tags these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCard {
    /// The name on the Hub or, as long as there is none, that of the folder.
    pub name: String,
    /// The base model: its name on the Hub, or of its folder.
    pub base_model: String,
    /// Whether that is named as on the Hub, so that others find it.
    pub is_base_on_hub: bool,
    /// The name of the data set, if it is on the Hub.
    pub dataset: Option<String>,
    /// Which base models it is for.
    pub family: CardFamily,
    /// What the ControlNet was shown and drew.
    pub pictures: Vec<CardPicture>,
    /// Tables of facts.
    pub facts: Vec<CardFacts>,
}

/// A family of base models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardFamily {
    /// Stable Diffusion 1.x or 2.x.
    StableDiffusion,
    /// Stable Diffusion XL.
    StableDiffusionXl,
}

/// A picture of a model card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardPicture {
    /// What it shows.
    pub caption: String,
    /// Where it is in the repository, with `/`.
    pub path: String,
}

/// A table of a model card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardFacts {
    /// What it is about.
    pub title: String,
    /// Names and values.
    pub rows: Vec<(String, String)>,
}

impl CardFamily {
    fn license(self) -> &'static str {
        match self {
            Self::StableDiffusion => "creativeml-openrail-m",
            Self::StableDiffusionXl => "openrail++",
        }
    }

    fn tag(self) -> &'static str {
        match self {
            Self::StableDiffusion => "stable-diffusion",
            Self::StableDiffusionXl => "stable-diffusion-xl",
        }
    }

    fn pipeline(self) -> &'static str {
        match self {
            Self::StableDiffusion => "StableDiffusionControlNetPipeline",
            Self::StableDiffusionXl => "StableDiffusionXLControlNetPipeline",
        }
    }
}

/// What the last line of a card begins with, before the SHA-256 of what is above it.
const SEAL: &str = "<!-- Written by Pyrograph, which writes it anew as long as nobody has changed it: ";

impl ModelCard {
    /// The card as a file, with a line at its end by which [`Self::is_untouched`] knows it again.
    #[must_use]
    pub fn sealed(&self) -> String {
        let text = format!("{self}\n");
        let seal = sha256_of_text(&text);
        format!("{text}{SEAL}{seal} -->\n")
    }

    /// Whether a file is a card of [`Self::sealed`] that nobody has changed since, so that nothing is lost with it.
    #[must_use]
    pub fn is_untouched(file: &str) -> bool {
        let Some((text, seal)) = file.rsplit_once(SEAL) else { return false };
        seal.strip_suffix(" -->\n").is_some_and(|seal| seal == sha256_of_text(text))
    }

    /// The paths of the pictures that a card shows, as far as they are in its own repository.
    #[must_use]
    pub fn pictures_of(card: &str) -> Vec<&str> {
        let after = card.split("![").skip(1);
        let paths = after.filter_map(|rest| Some(rest.split_once("](")?.1.split_once(')')?.0));
        paths.filter(|path| crate::cache::is_safe(path)).collect()
    }
}

impl fmt::Display for ModelCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, base_model, is_base_on_hub, dataset, family, pictures, facts } = self;
        let (license, tag, pipeline) = (family.license(), family.tag(), family.pipeline());
        writeln!(f, "---\nlicense: {license}\nlibrary_name: diffusers")?;
        if *is_base_on_hub {
            writeln!(f, "base_model: {base_model}")?;
        }
        if let Some(dataset) = dataset {
            writeln!(f, "datasets:\n- {dataset}")?;
        }
        writeln!(f, "tags:")?;
        for tag in [
            tag,
            &format!("{tag}-diffusers"),
            "text-to-image",
            "diffusers",
            "controlnet",
            "diffusers-training",
        ] {
            writeln!(f, "- {tag}")?;
        }
        writeln!(f, "inference: true\n---\n")?;
        writeln!(f, "# controlnet-{}\n", plain(name))?;
        writeln!(
            f,
            "These are controlnet weights trained on {} with new type of conditioning.",
            plain(base_model)
        )?;
        for CardPicture { caption, path } in pictures {
            let caption = plain(caption);
            writeln!(f, "\n{caption}\n\n![{caption}]({path})")?;
        }
        for CardFacts { title, rows } in facts {
            writeln!(f, "\n## {title}\n\n| | |\n|---|---|")?;
            for (name, value) in rows {
                writeln!(f, "| {} | {} |", plain(name), plain(value))?;
            }
        }
        let name = if name.contains('/') { name.clone() } else { format!("OWNER/{name}") };
        write!(
            f,
            "\n## Use\n\n\
             ```sh\n\
             pyrograph generate --base {base_model} --controlnet {name} \\\n  \
             --control_image hint.png --prompt \"...\" --output picture.png\n\
             ```\n\n\
             ```python\n\
             from diffusers import ControlNetModel, {pipeline}\n\
             from diffusers.utils import load_image\n\n\
             controlnet = ControlNetModel.from_pretrained(\"{name}\")\n\
             pipe = {pipeline}.from_pretrained(\"{base_model}\", controlnet=controlnet)\n\
             image = pipe(\"...\", image=load_image(\"hint.png\")).images[0]\n\
             ```\n"
        )
    }
}

/// A text in which nothing is markup: it may be of a data set's file names and captions.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '[' | ']' | '`' | '!' => {
                write!(plain, "&#{};", u32::from(c)).expect("a string takes everything");
            }
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_has_the_front_matter_of_diffusers_pictures_facts_and_how_to_use_it() {
        let card = ModelCard {
            name: "me/circles".to_owned(),
            base_model: "org/xl".to_owned(),
            is_base_on_hub: true,
            dataset: Some("org/circles".to_owned()),
            family: CardFamily::StableDiffusionXl,
            pictures: vec![CardPicture {
                caption: "red [circle](x)".to_owned(),
                path: "validation/grid.png".to_owned(),
            }],
            facts: vec![CardFacts {
                title: "Data".to_owned(),
                rows: vec![("pairs".to_owned(), "5 | 6".to_owned())],
            }],
        };
        let text = card.to_string();
        assert!(text.starts_with("---\nlicense: openrail++\nlibrary_name: diffusers\nbase_model: org/xl\ndatasets:\n- org/circles\ntags:\n- stable-diffusion-xl\n"), "{text}");
        assert!(
            text.contains(
                "- controlnet\n- diffusers-training\ninference: true\n---\n\n# controlnet-me/circles\n"
            ),
            "{text}"
        );
        assert!(text.contains("| pairs | 5 &#124; 6 |"), "{text}");
        assert!(text.contains("StableDiffusionXLControlNetPipeline.from_pretrained(\"org/xl\""), "{text}");
        assert_eq!(ModelCard::pictures_of(&text), ["validation/grid.png"]);
        assert!(
            ModelCard::pictures_of("![a](../../etc/passwd) ![b](/etc/passwd) ![c](http://a/b)").is_empty()
        );

        let file = card.sealed();
        assert!(file.starts_with(&text) && ModelCard::is_untouched(&file), "{file}");
        for changed in [
            file.replace("diffusers-training", "mine"),
            file.replace("red", "blue"),
            format!("{file}Mine.\n"),
            text,
            String::new(),
        ] {
            assert!(!ModelCard::is_untouched(&changed), "{changed}");
        }
    }
}
