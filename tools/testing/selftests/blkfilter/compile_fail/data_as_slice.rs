// SPDX-License-Identifier: GPL-2.0
//~ E0608: others may write to the data: no reference to it
fn look(segment: Segment<'_>) -> u8 {
    let mut first = [0]; //~ good
    segment.copy_to_slice(&mut first); //~ good
    let first = &segment[..]; //~ bad
    first[0]
}
