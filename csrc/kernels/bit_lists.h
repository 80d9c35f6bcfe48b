// From bits to the list of those that are set, eight at a time without a branch.
#pragma once
#include "../simd.h"

namespace ndsnn::NDSNN_ISA_NAME {

// Positions of the set bits of a byte.
struct BitLists {
    uint8_t count[256];
    alignas(8) uint8_t at[256][8];
    constexpr BitLists() : count(), at() {
        for (int m = 0; m < 256; m++)
            for (int l = 0; l < 8; l++)
                if (m >> l & 1) at[m][count[m]++] = static_cast<uint8_t>(l);
    }
};
inline constexpr BitLists bit_lists{};

// Appends base + position of every set bit; writes eight entries whatever their number.
NDSNN_INLINE uint16_t* append(uint16_t* list, uint8_t byte, int base) {
    typedef uint8_t u8x8 __attribute__((vector_size(8)));
    typedef uint16_t u16x8 __attribute__((vector_size(16)));
    u8x8 positions;
    std::memcpy(&positions, bit_lists.at[byte], 8);
    const u16x8 wide = __builtin_convertvector(positions, u16x8) + static_cast<uint16_t>(base);
    std::memcpy(list, &wide, 16);
    return list + bit_lists.count[byte];
}

}  // namespace ndsnn::NDSNN_ISA_NAME
