"""Virtual tokens that an encoder reads beside a text, and the states that it then gives the text.

They are what prefix tuning and prompt tuning train. Being no tokens of the text, they have no
states of their own to be pooled: what is returned are the states of the text's tokens alone.
"""

import inspect
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lpft.errors import InputError, named
from lpft.model.encoder import accepted_inputs, position_limit, real_positions

Kind = Literal["prefix", "prompt"]


class VirtualTokens(nn.Module):
    """n virtual tokens before every text, as a table with a row of numbers for each.

    A ``prefix`` has a key and a value for every layer and head (n x 2 L H d): the text's tokens
    attend to them and keep their positions (Li and Liang, 2021). A ``prompt`` has word embeddings
    (n x e) in front of the text's, whose positions move on by n (Lester et al., 2021).

    Args:
        description: ``kind``, ``number`` n, ``width`` of a row; of a prefix also ``layers`` L and
            ``heads`` H.
        source: computes the table while it is trained; None for a table of its own.
    """

    def __init__(self, description: dict[str, Any], source: nn.Module | None = None) -> None:
        super().__init__()
        self.kind: Kind = description["kind"]
        sizes = [description.get(name, 1) for name in ("number", "width", "layers", "heads")]
        if self.kind not in get_args(Kind) or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise ValueError(f"the virtual tokens are described by {description}")
        self.number, width, self.layers, self.heads = sizes
        self.source = source
        if source is None:
            self.table = nn.Parameter(torch.zeros(self.number, width))

    def rows(self) -> Tensor:
        """The current table."""
        return self.table if self.source is None else self.source()

    @torch.no_grad()
    def fixed(self, description: dict[str, Any]) -> "VirtualTokens":
        """A copy whose table is a parameter, whatever computed it here."""
        rows = self.rows().detach()
        plain = VirtualTokens(description).to(rows.device, rows.dtype)
        plain.table.copy_(rows)
        return plain

    def states(
        self, encoder: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, **extra: Tensor
    ) -> Tensor:
        """The last hidden states of the text's tokens, N x T x h, as read after the virtual ones.

        Takes token ids and mask (N x T), padded on either side, and ``token_type_ids``.
        """
        # Padding between a prompt and its text would change how far they are from each other.
        if not torch.compiler.is_exporting() and bool((attention_mask[:, 0] == 0).any()):
            order = attention_mask.argsort(dim=1, descending=True, stable=True)
            ids, mask, *types = (
                tensor.gather(1, order) for tensor in (input_ids, attention_mask, *extra.values())
            )
            states = self.states(encoder, ids, mask, **dict(zip(extra, types, strict=True)))
            back = order.argsort(dim=1).unsqueeze(-1).expand_as(states)
            return states.gather(1, back)
        count, rows = len(input_ids), self.rows()
        mask = torch.cat([attention_mask.new_ones(count, self.number), attention_mask], dim=1)
        inputs = accepted_inputs(encoder, **extra)
        positions = "position_ids" in inspect.signature(encoder.forward).parameters
        if self.kind == "prefix":
            if positions:
                inputs["position_ids"] = real_positions(encoder, attention_mask)
            cache = DynamicCache(self._keys_and_values(rows, count))
            return encoder(
                input_ids=input_ids, attention_mask=mask, past_key_values=cache, **inputs
            ).last_hidden_state
        words = encoder.get_input_embeddings()(input_ids)
        words = torch.cat([rows.to(words.dtype).expand(count, -1, -1), words], dim=1)
        if positions:
            inputs["position_ids"] = real_positions(encoder, mask)
        if "token_type_ids" in inputs:
            types = inputs["token_type_ids"]
            inputs["token_type_ids"] = torch.cat([types.new_zeros(count, self.number), types], 1)
        states = encoder(inputs_embeds=words, attention_mask=mask, **inputs).last_hidden_state
        return states[:, self.number :]

    def _keys_and_values(self, rows: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, N x H x n x d, in the precision of the products."""
        kind = rows.device.type
        if torch.is_autocast_enabled(kind):
            rows = rows.to(torch.get_autocast_dtype(kind))
        table = rows.view(self.number, 2 * self.layers, self.heads, -1).permute(1, 2, 0, 3)
        parts = table.unsqueeze(1).expand(-1, count, -1, -1, -1)
        return [(parts[2 * layer], parts[2 * layer + 1]) for layer in range(self.layers)]


def check_room(encoder: PreTrainedModel, number: int, max_length: int) -> None:
    """Refuse texts so long that a prompt would move their last tokens beyond the last position.

    ``number`` is how many tokens the prompt has.

    Raises:
        InputError: it does.
    """
    limit = position_limit(encoder)
    if limit is not None and max_length + number > limit:
        raise InputError(
            f"{number} virtual tokens before texts of up to {max_length} tokens exceed the "
            f"{limit} positions of the model: give {named('max_length')} "
            f"{max(limit - number, 1)}, or fewer virtual tokens"
        )
