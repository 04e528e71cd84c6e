// SPDX-License-Identifier: GPL-2.0
//~ E0451: a bio is not made up
fn more(bio: FilteredBio) {
    let bio = FilteredBio { ..bio }; //~ bad
}
